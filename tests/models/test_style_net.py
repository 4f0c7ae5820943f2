"""The style network: sizes, shares, strength, the published layout, against a derivation by torch's own modules."""

import pytest
import torch
from torch import nn

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet, load_style_net, save_style_net
from tests.networks import lively


class Published(nn.Module):
    """The layout of pytorch/examples' transformer, from torch's modules."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def conv(inputs, outputs, kernel, stride=1, double=False):
            steps = [nn.Upsample(scale_factor=2)] if double else []
            layer = nn.Module()
            layer.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)
            layer.forward = nn.Sequential(*steps, nn.ReflectionPad2d(kernel // 2), layer.conv2d).forward
            return layer

        def norm(channels):
            return nn.InstanceNorm2d(channels, affine=True)

        w = width
        self.conv1, self.in1 = conv(3, w, 9), norm(w)
        self.conv2, self.in2 = conv(w, 2 * w, 3, 2), norm(2 * w)
        self.conv3, self.in3 = conv(2 * w, 4 * w, 3, 2), norm(4 * w)
        for number in range(1, 6):
            block = nn.Module()
            block.conv1, block.in1 = conv(4 * w, 4 * w, 3), norm(4 * w)
            block.conv2, block.in2 = conv(4 * w, 4 * w, 3), norm(4 * w)
            self.add_module(f"res{number}", block)
        self.deconv1, self.in4 = conv(4 * w, 2 * w, 3, double=True), norm(2 * w)
        self.deconv2, self.in5 = conv(2 * w, w, 3, double=True), norm(w)
        self.deconv3 = conv(w, 3, 9)

    def forward(self, levels):
        x = levels
        for number in (1, 2, 3):
            x = getattr(self, f"in{number}")(getattr(self, f"conv{number}").forward(x)).relu()
        for number in range(1, 6):
            block = getattr(self, f"res{number}")
            inner = block.in1(block.conv1.forward(x)).relu()
            x = x + block.in2(block.conv2.forward(inner))
        x = self.in4(self.deconv1.forward(x)).relu()
        x = self.in5(self.deconv2.forward(x)).relu()
        return self.deconv3.forward(x)


@pytest.mark.parametrize("old", [False, True])
def test_published_checkpoints_give_what_their_network_gives(tmp_path, old):
    torch.manual_seed(0)
    published = lively(Published(4)).double()
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
