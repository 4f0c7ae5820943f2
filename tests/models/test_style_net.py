"""The style network: sizes, shares, strength, the published layout, against a derivation by torch's own modules."""

import pytest
import torch
from torch import nn

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet, load_style_net, save_style_net
from afterimage.models.style.source import embedded
from benchmarks.peers.style_examples import TransformerNet
from tests.networks import lively


@pytest.mark.parametrize("old", [False, True])
def test_published_checkpoints_give_what_their_network_gives(tmp_path, old):
    torch.manual_seed(0)
    published = lively(TransformerNet(4)).double()
    state = published.state_dict()
    if old:  # torch 0.3 wrote these too
        state |= {"in1.running_mean": torch.zeros(4), "in1.running_var": torch.ones(4)}
    torch.save(state, tmp_path / "net.pth")
    net = load_style_net(tmp_path / "net.pth").double()
    assert net.styles == ("style",)
    assert net.width == 4
    images = torch.rand(2, 3, 24, 32, dtype=torch.float64)
    expected = (published(images * 255) / 255).clamp(0, 1)
    assert 0.2 < ((expected > 0) & (expected < 1)).double().mean() < 1
    torch.testing.assert_close(net(images), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (30, 19)])
def test_any_size_is_reflected_and_cropped(size):
    torch.manual_seed(0)
    net = lively(StyleNet(4)).double()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    rows, columns = (-size[0] % 4, -size[1] % 4)
    whole = torch.nn.functional.pad(images, (0, columns, 0, rows), mode="reflect")
    torch.testing.assert_close(net(images), net(whole)[:, :, : size[0], : size[1]], atol=1e-12, rtol=0)
    torch.testing.assert_close(net(images), torch.cat([net(one) for one in images.split(1)]), atol=1e-12, rtol=0)


def test_strength_goes_from_content_to_style_and_shares_mix_the_norms():
    torch.manual_seed(0)
    net = lively(StyleNet(4, ("a", "b"))).double()
    images = torch.rand(3, 3, 16, 20, dtype=torch.float64)
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]], dtype=torch.float64)
    painted = net(images, shares)
    strength = torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64)
    mixed = net(images, shares, strength)
    assert torch.equal(mixed[0], images[0])
    assert torch.equal(mixed[1], painted[1])
    torch.testing.assert_close(mixed[2], 0.75 * images[2] + 0.25 * painted[2])
    one = StyleNet(4).double()
    state = net.state_dict()
    norms = {name for name in state if ".in" in f".{name}"}
    for row, share in enumerate(shares):
        one.load_state_dict({k: (share @ v)[None] if k in norms else v for k, v in state.items()})
        torch.testing.assert_close(one(images[[row]]), painted[[row]])


def test_a_file_keeps_styles_and_what_is_said_of_them(tmp_path):
    net = StyleNet(4, ("starry night", "scream"), {"steps": 3})
    save_style_net(net, tmp_path / "net.safetensors")
    loaded = load_style_net(tmp_path / "net.safetensors")
    assert (loaded.styles, loaded.about, loaded.training) == (net.styles, {"steps": 3}, False)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_what_is_no_style_network_is_refused(tmp_path):
    torch.save(nn.Conv2d(3, 3, 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="no style network"):
        load_style_net(tmp_path / "other.pth")
    net = StyleNet(4)
    with torch.no_grad():
        net.in2.bias[0, 1] = torch.nan
    save_style_net(net, tmp_path / "nan.safetensors")
    with pytest.raises(UsageError, match=r"in2\.bias.*NaN"):
        load_style_net(tmp_path / "nan.safetensors")
    state = {name: value for name, value in StyleNet(4).state_dict().items() if not name.startswith("res5")}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UsageError, match="missing"):
        load_style_net(tmp_path / "short.pth")
    with pytest.raises(UsageError, match="different names"):
        StyleNet(4, ("a", "a"))


@pytest.mark.parametrize("name", embedded())
def test_embedded_networks_are_small_and_say_how_they_were_made(name):
    assert embedded()[name].stat().st_size <= 500_000
    net = load_style_net(embedded()[name])
    assert set(net.about["styles"]) == set(net.styles)
    assert sum(net.about["held_out_loss"].values()) > 0
    assert {"adam", "lbfgs"} == set(net.about["worth"])
    picture = torch.rand(1, 3, 8, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)
    painted = [net(picture, share[None]) for share in torch.eye(len(net.styles))]
    # they paint: pictures lie within range but for a few pixels, and no two styles are alike
    assert all(((one > 0) & (one < 1)).float().mean() > 0.9 for one in painted)
    assert all(
        (one - other).abs().mean() > 0.05 for one in (picture, *painted) for other in painted if one is not other
    )
