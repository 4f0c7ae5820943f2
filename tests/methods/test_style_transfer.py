"""Style transfer: its losses by their formulas, styles mixed, colors kept, masks, sizes, what is kept of styles."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from afterimage import StyleTransfer, UsageError
from afterimage.images import grams as kept
from afterimage.images import memory
from afterimage.images.colors import luminance, matched
from tests.networks import mixed, pictures

LAYERS = {"layers": "convolutions.0,convolutions.2", "content_layer": "convolutions.1"}


def transfer(**options) -> StyleTransfer:
    return StyleTransfer(**{**LAYERS, "steps": 3, "scales": 1, **options})


def seen(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """Return a layer's activations `(N, C, positions)`, by a hook of its own."""
    found = []
    hook = model.get_submodule(name).register_forward_hook(lambda *given: found.append(given[2].detach().clone()))
    with torch.no_grad():
        model(images)
    hook.remove()
    return found[0].flatten(2)


def distances(model: nn.Module, image: Tensor, content: Tensor, styles: list[Tensor], shares: list[float]):
    """Return ‖F − P‖², ‖P‖² and, for each style layer, ‖G − Ĝ‖², ‖Ĝ‖² and the channels, of one image."""
    own, other = (seen(model, LAYERS["content_layer"], one) for one in (image, content))
    alike = []
    for name in LAYERS["layers"].split(","):
        maps = [seen(model, name, one)[0] for one in (image, *styles)]
        means = [one @ one.T / one.shape[1] for one in maps]
        target = sum(share * one for share, one in zip(shares, means[1:], strict=True))
        alike.append((float((means[0] - target).square().sum()), float(target.square().sum()), len(target)))
    return float((own - other).square().sum()), float(other.square().sum()), alike


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_losses_are_those_of_the_formulas(optimizer):
    model, content, styles = mixed().double(), pictures(2, 16).double(), [pictures(1, 16, 7).double()]
    options = {"content_weight": 2.0, "style_weight": 5.0, "tv": 0.3, "optimizer": optimizer, "rate": 0.001}
    for normalize in ("target", "paper"):
        made = transfer(normalize=normalize, **options).details(model, content, styles)
        for row in range(2):
            image = made.image[row : row + 1]
            far, size, alike = distances(model, image, content[row : row + 1], styles, [1.0])
            steps = (image[..., 1:] - image[..., :-1]).square().sum() + (
                image[..., 1:, :] - image[..., :-1, :]
            ).square().sum()
            if normalize == "target":
                near, like = far / size, sum(one / other for one, other, _ in alike) / 2
            else:  # E_l of pictures of one size: Σ (F Fᵀ − F̂ F̂ᵀ)² / 4N²M²
                near, like = far / 2, sum(one / (4 * channels**2) for one, _, channels in alike) / 2
            # float64; the optimized loss of a clipped picture has nothing out of range
            assert float(made.content_loss[row]) == pytest.approx(near, rel=1e-9)
            assert float(made.style_loss[row]) == pytest.approx(like, rel=1e-9)
            assert float(made.loss[row]) == pytest.approx(2 * near + 5 * like + 0.3 * float(steps) / 256, rel=1e-9)
        assert optimizer == "adam" or (made.losses[:, 0] > made.loss).all()


def test_styles_are_mixed_by_their_gram_matrices():
    model, content = mixed().double(), pictures(1, 16).double()
    styles = [pictures(1, 16, 7).double(), pictures(1, 16, 8).double()]
    for weights, shares in (([1.0, 3.0], [0.25, 0.75]), (None, [0.5, 0.5]), ([0, 2], [0.0, 1.0])):
        made = transfer().details(model, content, styles, weights)
        _, _, alike = distances(model, made.image, content, styles, shares)
        expected = sum(one / other for one, other, _ in alike) / 2
        assert float(made.style_loss) == pytest.approx(expected, rel=1e-9)


def test_contents_by_styles_are_one_batch():
    model, content = mixed().double(), pictures(2, 16).double()
    styles = [pictures(1, 20, 7).double(), pictures(1, 12, 8).double()]
    together = transfer()(model, content.repeat_interleave(2, 0), styles, torch.eye(2).repeat(2, 1))
    alone = [transfer()(model, one, [style]) for one in content.split(1) for style in styles]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)  # float64, sums in another order
    assert all((together[a] - together[b]).abs().max() > 1e-3 for a, b in ((0, 1), (2, 3), (0, 2)))


@pytest.mark.parametrize(
    "options", [{"optimizer": "adam"}, {"keep_color": "luminance"}, {"start": "noise"}, {"scales": 2}]
)
def test_where_the_mask_is_0_the_content_stays(options):
    model, content, style = mixed(), pictures(2, 40), [pictures(1, 40, 7)]
    masks = torch.zeros(2, 1, 40, 40)
    masks[0, :, :, :20], masks[1, :, 10:30] = 1, 0.5
    for mask in (masks, masks[:1]):
        made = transfer(**options)(model, content, style, mask=mask)
        outside = (mask == 0).expand_as(made)
        assert torch.equal(made[outside], content[outside])
        assert ((made - content).abs().amax((1, 2, 3)) > 0.01).all()
    whole = transfer(**options)(model, content, style)
    assert torch.equal(transfer(**options)(model, content, style, mask=torch.ones(1, 1, 40, 40)), whole)


def test_the_gram_matrix_of_a_picture_is_a_mean_over_its_mask():
    model, content, style = mixed().double(), pictures(1, 16).double(), pictures(1, 16, 7).double()
    mask = torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 1, 16, 16)
    made = transfer(layers="convolutions.1").details(model, content, [style], mask=mask)
    own, target = (seen(model, "convolutions.1", one)[0] for one in (made.image, style))
    gram, wanted = (own * mask.flatten()) @ own.T / mask.sum(), target @ target.T / 256
    expected = (gram - wanted).square().sum() / wanted.square().sum()
    assert float(made.style_loss) == pytest.approx(float(expected), rel=1e-9)


def weighted(maps: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of f fᵀ over a mask of the maps' own positions."""
    return (maps * mask.flatten()) @ maps.T / mask.sum()


def test_the_target_is_a_mean_over_the_styles_mask():
    model, content, style = mixed().double(), pictures(1, 16).double(), pictures(1, 16, 7).double()
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask[..., 3:9, :5], mask[..., 12:, 7:] = 1, 0.25
    made = transfer(layers="convolutions.1").details(model, content, [style], style_mask=[mask])
    own, target = (seen(model, "convolutions.1", one)[0] for one in (made.image, style))
    gram, wanted = own @ own.T / 256, weighted(target, mask)
    expected = (gram - wanted).square().sum() / wanted.square().sum()
    assert float(made.style_loss) == pytest.approx(float(expected), rel=1e-9)


def test_each_region_takes_the_style_of_its_own_region():
    model, content = mixed().double(), pictures(1, 16).double()
    styles, shares = [pictures(1, 16, seed).double() for seed in (7, 8)], (0.25, 0.75)
    ramp = torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 1, 16, 16)
    where = torch.cat([ramp, (1 - ramp) * (ramp < 0.9)], 1)
    given = [torch.cat([ramp.flip(2), ramp.mT.contiguous()], 1), torch.cat([ramp**2, 1 - ramp], 1)]
    made = transfer(layers="convolutions.1", steps=2).details(
        model, content, styles, weights=shares, mask=where, style_mask=given
    )
    own, *targets = (seen(model, "convolutions.1", one)[0] for one in (made.image, *styles))
    losses = []
    for region in range(2):
        wanted = sum(
            share * weighted(maps, mask[:, region]) for share, maps, mask in zip(shares, targets, given, strict=True)
        )
        losses.append((weighted(own, where[:, region]) - wanted).square().sum() / wanted.square().sum())
    assert float(made.style_loss) == pytest.approx(float(sum(losses) / 2), rel=1e-9)


@pytest.mark.parametrize("keep_color", ["no", "match", "luminance"])
def test_a_style_mask_of_ones_is_none(keep_color):
    model, content, styles = mixed(), pictures(2, 24), [pictures(1, 20, 7), pictures(1, 24, 8)]
    method = transfer(keep_color=keep_color, scales=2)
    plain = method(model, content, styles)
    ones = [torch.ones(1, 1, 20, 20), torch.ones(1, 1, 24, 24)]
    assert torch.equal(method(model, content, styles, style_mask=ones), plain)
    ones[0][..., :10] = 0
    assert not torch.equal(method(model, content, styles, style_mask=ones), plain)


def test_colors_are_kept():
    content, style = pictures(1, 24), pictures(1, 24, 7) * torch.tensor([0.3, 0.9, 0.5]).view(3, 1, 1)
    recolored = matched(style * 0.2 + 0.3, content * 0.2 + 0.4)  # far from black and white, so that nothing is clipped
    for power in (1, 2):
        moments = [torch.stack([one.flatten(1) ** power]).mean() for one in (recolored, content * 0.2 + 0.4)]
        torch.testing.assert_close(*moments)
    wanted, came = (torch.cov(one[0].flatten(1), correction=0) for one in (content * 0.2 + 0.4, recolored))
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-6)
    made = transfer(keep_color="luminance", optimizer="adam", rate=0.005)(mixed(), content * 0.2 + 0.4, [style])
    chroma = [one - luminance(one) for one in (made, content * 0.2 + 0.4)]
    torch.testing.assert_close(*chroma, rtol=0, atol=1e-6)
    assert (made - content * 0.2 - 0.4).abs().max() > 0.005


def test_matched_styles_are_each_contents_own():
    model, content, style = mixed().double(), pictures(2, 16).double(), [pictures(1, 16, 7).double()]
    made = transfer(keep_color="match").details(model, content, style)
    for row in range(2):
        own = content[row : row + 1]
        _, _, alike = distances(model, made.image[row : row + 1], own, [matched(style[0], own)], [1.0])
        assert float(made.style_loss[row]) == pytest.approx(sum(one / other for one, other, _ in alike) / 2, rel=1e-9)


class Sizes:
    """What pictures a network is shown, by their size, and whether they have data."""

    def __init__(self, model: nn.Module) -> None:
        self.shown: list[tuple[tuple[int, ...], bool]] = []
        model.register_forward_pre_hook(
            lambda _, given: self.shown.append((tuple(given[0].shape), _has_data(given[0])))
        )


def _has_data(tensor: Tensor) -> bool:
    return not isinstance(tensor, FakeTensor)


def test_from_coarse_to_fine_styles_grow_with_the_content():
    model = mixed()
    sizes = Sizes(model)
    method = transfer(steps=7, scales=2, style_scale=0.5, optimizer="adam")
    made = method.details(model, pictures(1, 96)[..., :64, :], [pictures(1, 48, 7)])
    assert made.image.shape == (1, 3, 64, 96)
    style = {"32": (1, 3, 20, 20), "64": (1, 3, 39, 39)}  # half the content's √(height · width)
    # content and style, then four steps and three, each with a last look
    expected = [(1, 3, 32, 48), style["32"], *[(1, 3, 32, 48)] * 5, (1, 3, 64, 96), style["64"], *[(1, 3, 64, 96)] * 4]
    shown = [shape for shape, data in sizes.shown if data]
    assert shown[: len(expected)] == expected


def test_start_is_noise_of_the_seed():
    model, style = mixed(), [pictures(1, 16, 7)]
    contents, seeds = pictures(1, 16).repeat(3, 1, 1, 1), torch.tensor([5, 6, 5])
    made = transfer(start="noise", content_weight=0.0)(model, contents, style, seeds=seeds)
    assert torch.equal(made[0], made[2])
    assert (made[0] - made[1]).abs().max() > 0.1
    other = transfer(start="noise", content_weight=0.0)(model, pictures(3, 16, 4), style, seeds=seeds)
    torch.testing.assert_close(other, made)  # without a content, only the seed tells them apart


def test_gram_matrices_of_styles_are_computed_once():
    model, style = mixed(), pictures(1, 16, 7)
    sizes = Sizes(model)
    names = LAYERS["layers"].split(",")
    first = kept.grams(model, style, names)
    again = kept.grams(model, style.clone(), names)
    assert len(sizes.shown) == 1
    assert all(torch.equal(first[name], again[name]) for name in names)
    for changed in (lambda w: w.mul_(2), lambda w: w.data.mul_(2)):  # counted by torch, and not
        before = kept.grams(model, style, names)["convolutions.0"]
        with torch.no_grad():
            changed(model.convolutions[0].weight)
        fresh = mixed()
        fresh.load_state_dict(model.state_dict())
        expected = kept.grams(fresh, style, names)
        assert all(torch.equal(kept.grams(model, style, names)[name], expected[name]) for name in names)
        assert not torch.equal(expected["convolutions.0"], before)
    other = kept.grams(model, style * 0.5, names)
    assert not torch.equal(other["convolutions.2"], kept.grams(model, style, names)["convolutions.2"])


def test_what_is_kept_of_styles_is_bounded_and_goes_with_the_network(monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    model = mixed()
    for seed in range(5):
        kept.grams(model, pictures(1, 8, seed), ["convolutions.0"])
    assert len(kept._kept[model]) == 3
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


class Touchy(nn.Module):
    """A convolution whose output is NaN for pictures that are bright on average."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3), keepdim=True) > 0.9
        return self.convolution(images + torch.where(bright, torch.nan, 0.0))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_one_that_diverges_ends_alone(optimizer):
    model, style = Touchy(), [pictures(1, 16, 7)]
    content = torch.cat([pictures(1, 16), torch.full((1, 3, 16, 16), 0.95), pictures(1, 16, 3)])
    method = StyleTransfer(layers="convolution", content_layer="convolution", steps=4, scales=1, optimizer=optimizer)
    made = method.details(model, content, style)
    assert made.diverged.tolist() == [False, True, False]
    assert torch.equal(made.image[1], content[1])
    assert made.image.isfinite().all()
    alone = method.details(model, content[[0, 2]], style)
    torch.testing.assert_close(made.loss[[0, 2]], alone.loss, rtol=2e-2, atol=0)  # float32, in another batch


def test_l_bfgs_goes_far_in_float32():
    model, content, style = mixed(), pictures(1, 32), [pictures(1, 32, 7)]
    made = transfer(steps=60, tv=0.0).details(model, content, style)
    exact = transfer(steps=60, tv=0.0).details(mixed().double(), content.double(), [style[0].double()])
    assert float(made.loss) < 0.2 * float(made.losses[0, 0])
    assert float(made.loss) == pytest.approx(float(exact.loss), rel=0.05)  # another course, as good an end
    assert float(made.steps) == 60


def test_works_on_pictures_made_in_inference_mode():
    model = mixed()
    with torch.inference_mode():
        content, style = pictures(1, 16), [pictures(1, 16, 7)]
        made = transfer()(model, content, style)
    assert torch.equal(made, transfer()(mixed(), content.clone(), [style[0].clone()]))


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"content": torch.rand(1, 4, 16, 16)}, "content: expected finite pictures"),
        ({}, {"content": torch.full((1, 3, 16, 16), torch.nan)}, "content: expected finite pictures"),
        ({}, {"style": []}, "style: expected a sequence .* got none"),
        ({}, {"style": torch.rand(1, 3, 8, 8)}, "style: expected a sequence .* put it into a list"),
        ({}, {"style": [torch.rand(2, 3, 8, 8)]}, r"style: expected a sequence .* got \(2, 3, 8, 8\)"),
        ({}, {"weights": [0.5, 0.5]}, "weights: expected 1 numbers of 0 or above"),
        ({}, {"weights": [-1.0]}, "weights: expected 1 numbers of 0 or above"),
        ({}, {"mask": torch.ones(1, 1, 8, 16)}, r"mask: expected \(1, 1, 16, 16\)"),
        ({}, {"mask": torch.full((1, 1, 16, 16), 2.0)}, r"mask: expected values in \[0, 1\]"),
        ({}, {"style_mask": torch.ones(1, 1, 16, 16)}, "style_mask: expected 1, .* put it into a list"),
        ({}, {"style_mask": [torch.ones(1, 1, 16, 16)] * 2}, "style_mask: expected 1, one for each style, got 2"),
        ({}, {"style_mask": [torch.ones(1, 1, 16, 8)]}, r"style_mask: expected \(1, 1, 16, 16\): its style's size"),
        ({}, {"style_mask": [torch.ones(1, 2, 16, 16)]}, r"as many channels as the content's mask, got \(1, 2, 16"),
        ({}, {"style_mask": [torch.full((1, 1, 16, 16), -1.0)]}, r"style_mask: expected values in \[0, 1\]"),
        ({}, {"style_mask": [torch.zeros(1, 1, 16, 16)]}, "style_mask: expected a place above 0"),
        ({}, {"seeds": torch.rand(1)}, "seeds: expected 1 whole numbers"),
        ({"layers": "convolutions.99"}, {}, r"no layer 'convolutions\.99'"),
        ({"layers": "convolutions.0,head"}, {}, r"layers that give maps \(C, H, W\), 'head' gives \(5,\)"),
        ({"layers": " , "}, {}, "layers: expected names separated by commas"),
        ({"content_layer": "nowhere"}, {}, "no layer 'nowhere'"),
    ],
)
def test_refuses_what_does_not_fit(options, given, message):
    arguments = {"content": pictures(1, 16), "style": [pictures(1, 16, 7)], **given}
    for call in (transfer(**options).check, transfer(**options)):
        with pytest.raises(UsageError, match=message):
            call(mixed(), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style_weight": -1.0}, "style_weight: expected a finite number of 0 or above"),
        ({"style_scale": 0.0}, "style_scale: expected a finite number above 0"),
        ({"factor": 1.0}, "factor: expected a finite number above 1"),
        ({"rate": 0.0}, "rate: expected a finite number above 0"),
        ({"tv_beta": 0.5}, "tv_beta: expected 1 or above"),
        ({"scales": 0}, "expected steps ≥ scales ≥ 1"),
        ({"steps": 1, "scales": 2}, "expected steps ≥ scales ≥ 1"),
        ({"content_weight": 0, "style_weight": 0, "tv": 0}, "expected a weight above 0"),
    ],
)
def test_refuses_numbers_that_are_none_of_its_options(options, message):
    with pytest.raises(UsageError, match=message):
        StyleTransfer(**options)


def test_refuses_pictures_that_memory_does_not_hold_before_any_work(monkeypatch):
    model = mixed()
    sizes = Sizes(model)
    monkeypatch.setattr(memory, "free_memory", lambda device: 6_000_000)
    with pytest.raises(UsageError, match=r"images: expected what fits .* for one picture of 256 × 256; use about"):
        transfer()(model, pictures(1, 256), [pictures(1, 16, 7)])
    with pytest.raises(UsageError, match=r"style: expected what fits .* for one picture of 512 × 512; use about"):
        transfer(style_scale=8.0).check(model, pictures(1, 64), [pictures(1, 16, 7)])
    assert not any(data for _, data in sizes.shown)


def test_refuses_pictures_that_the_network_does_not_take():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(8), nn.Conv2d(4, 4, 3), nn.ReLU())
    method = StyleTransfer(layers="1,4", content_layer="1")
    with pytest.raises(UsageError, match=r"the network takes no pictures of 16 × 16 \(.*\); use larger ones"):
        method.check(network, pictures(1, 16), [pictures(1, 64)])
    method.check(network, pictures(1, 64), [pictures(1, 64)])
