"""Occlusion against Captum, against the closed form on a linear model, and against a loop over windows."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from PIL import Image
from torch import Tensor, nn

import afterimage
from afterimage import Occlusion, UsageError
from afterimage.methods import occlusion
from afterimage.models.layers import Neuron, activations
from afterimage.models.windows import Extent, Fill, blurred
from afterimage.registry import method
from afterimage.workflows.cli import command_of
from tests.networks import live, mixed, pictures

NETWORKS = ["resnet18", "googlenet", "densenet121", "squeezenet"]
TARGET = torch.tensor([3, 7])
SIDE = 64
WINDOW, STRIDE = (32, 28), (20, 24)  # three by three windows, those of the last row and column are clipped


@pytest.fixture(scope="module")
def squeezenet(shared):
    return afterimage.load_model("squeezenet1_0", weights=str(shared("models") / "squeezenet1_0.safetensors"))


@pytest.fixture(params=NETWORKS)
def network(request):
    name = request.param
    return request.getfixturevalue("squeezenet") if name == "squeezenet" else live(name)


def captum(model: nn.Module, images: Tensor, baselines: float | Tensor) -> Tensor:
    # One value for the window's three channels, so that each channel gets the same fall.
    options = {"sliding_window_shapes": (3, *WINDOW), "strides": (3, *STRIDE), "perturbations_per_eval": 8}
    with torch.no_grad():
        return CaptumOcclusion(model).attribute(images, target=TARGET, baselines=baselines, **options)[:, :1]


@pytest.fixture
def exact(monkeypatch):
    """Let Captum keep float64, which its last step, the mean over windows, rounds with `.float()`."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference as a share of the largest fall, after making sure that there is a fall."""
    assert theirs.abs().amax((1, 2, 3)).min() > 1e-3
    return float(((ours - theirs).abs().amax((1, 2, 3)) / theirs.abs().amax((1, 2, 3))).max())


def test_equals_captum_in_float64(network, exact):
    model, images = copy.deepcopy(network).double(), pictures(2, SIDE).double()
    ours = Occlusion(WINDOW, STRIDE)(model, images, TARGET)
    # the order of float64 sums is all that may differ
    assert distance(ours, captum(model, images, 0.5)) <= 1e-9


def test_equals_captum_in_float32(network):
    images = pictures(2, SIDE)
    theirs = captum(network, images, 0.5)
    exact = Occlusion(WINDOW, STRIDE)(copy.deepcopy(network).double(), images.double(), TARGET)
    # On a processor with AVX2 alone, float32 takes densenet121 further: Captum's own maps are 8e-5 from the exact ones.
    allowed = max(1e-4, 4 * distance(theirs.double(), exact))
    assert allowed < 1e-3
    assert distance(Occlusion(WINDOW, STRIDE)(network, images, TARGET), theirs) <= allowed
    last = images.to(memory_format=torch.channels_last)
    # the same falls by convolutions that add in another order
    assert distance(Occlusion(WINDOW, STRIDE)(network, last, TARGET), theirs) <= allowed


@pytest.mark.parametrize(
    ("fill", "baselines"),
    [
        (0, lambda images: 0.0),
        ((0.2, 0.9, 0.4), lambda images: images.new_tensor([0.2, 0.9, 0.4]).view(1, 3, 1, 1).expand_as(images)),
        ("mean", lambda images: images.mean((2, 3), keepdim=True).expand_as(images)),
        ("blur", lambda images: blurred(images, WINDOW[0] / 4, WINDOW[1] / 4)),
    ],
    ids=["0", "color", "mean", "blur"],
)
def test_equals_captum_with_every_fill(fill, baselines, exact):
    model, images = copy.deepcopy(live("resnet18")).double(), pictures(2, SIDE).double()
    expected = captum(model, images, baselines(images))
    assert distance(Occlusion(WINDOW, STRIDE, fill)(model, images, TARGET), expected) <= 1e-9


def slow(images: Tensor, window: int, stride: int, score) -> tuple[Tensor, Tensor]:
    """Return falls `(N, rows, columns)` and heatmaps by a loop over pixels of squares, each image by itself."""
    size = images.shape[-1]
    starts = [start for start in range(0, size, stride) if start - stride + window < size]
    falls = torch.zeros(len(images), len(starts), len(starts)).double()
    sums, counts = torch.zeros(2, len(images), 1, size, size).double()
    for number, image in enumerate(images):
        whole = score(image[None], number)
        for row, y in enumerate(starts):
            for column, x in enumerate(starts):
                covered = image.clone()
                covered[:, y : y + window, x : x + window] = 0.5
                fall = whole - score(covered[None], number)
                falls[number, row, column] = fall
                sums[number, 0, y : y + window, x : x + window] += fall
                counts[number, 0, y : y + window, x : x + window] += 1
    return falls, sums / counts


@torch.no_grad()
def test_equals_a_loop_over_windows():
    model, images, target = mixed().double(), pictures(2, 17).double(), torch.tensor([4, 0])
    readers = {
        "logit": lambda logits, c: logits[0, c],
        "probability": lambda logits, c: logits[0].exp()[c] / logits[0].exp().sum(),
    }
    for score, read in readers.items():
        falls, heatmap = slow(images, 6, 4, lambda image, n, read=read: read(model(image), target[n]))
        method = Occlusion(6, 4, score=score)
        assert falls.shape == (2, 4, 4)
        assert falls.abs().max() > 1e-5
        torch.testing.assert_close(method.scores(model, images, target).falls, falls, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(method(model, images, target), heatmap, rtol=1e-9, atol=1e-14)


def test_of_a_linear_model_is_the_closed_form():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 7 * 9, 6)).double()
    images, target = torch.rand(2, 3, 7, 9).double(), torch.tensor([1, 4])
    color = images.new_tensor([0.2, 0.7, 0.4])
    rows = model[1].weight.detach()[target].view(2, 3, 7, 9)
    evidence = (rows * (images - color[:, None, None])).sum(1)
    windows = [(y, x) for y in (0, 2, 4) for x in (0, 3, 6)]
    expected = torch.zeros(2, 7, 9).double()
    for y in range(7):
        for x in range(9):
            over = [(v, h) for v, h in windows if v <= y < v + 4 and h <= x < h + 3]
            expected[:, y, x] = sum(evidence[:, v : v + 4, h : h + 3].sum((1, 2)) for v, h in over) / len(over)
    ours = Occlusion((4, 3), (2, 3), (0.2, 0.7, 0.4))(model, images, target)
    # differences of sums of 189 float64 products
    torch.testing.assert_close(ours[:, 0], expected, rtol=1e-10, atol=1e-13)


def undecided(images: Tensor) -> nn.Module:
    """Return a network of which a window changes the most probable class."""
    model = mixed().to(images.dtype)
    with torch.no_grad():
        model.head.bias -= model(images).mean(0)
        model.head.weight *= 300
        model.head.bias *= 300
    return model


def test_tells_the_most_probable_class_and_the_targets_probability_by_window():
    images = pictures(2, 16).double()
    model = undecided(images)
    scores = Occlusion(8, 4).scores(model, images, TARGET % 5)
    assert scores.classes.shape == scores.probabilities.shape == (2, 3, 3)
    for number, (y0, x0, y1, x1) in enumerate(scores.grid.boxes().tolist()):
        covered = images.clone()
        covered[:, :, y0:y1, x0:x1] = 0.5
        logits = model(covered).detach()
        row, column = divmod(number, 3)
        assert torch.equal(scores.classes[:, row, column], logits.argmax(1))
        found = scores.probabilities[:, row, column]
        torch.testing.assert_close(found, logits.softmax(1)[[0, 1], TARGET % 5], rtol=1e-9, atol=1e-12)
    assert len(scores.classes.unique()) > 1


def test_without_target_follows_the_class_that_is_most_probable_on_the_whole_image():
    images = pictures(3, 16)
    model = undecided(images)
    target = model(images).argmax(1)
    found = Occlusion(8, 4).scores(model, images)
    assert torch.equal(found.covered, Occlusion(8, 4).scores(model, images, target).covered)
    assert (found.classes != target[:, None, None]).any()


@pytest.mark.parametrize("of", ["convolutions.1:2:5:6", "convolutions.3:4", "head:1"])
@torch.no_grad()
def test_of_a_neuron_or_channel_is_the_fall_of_its_activation(of):
    model, images = mixed().double(), pictures(2, 16).double()
    falls, heatmap = slow(images, 8, 4, lambda image, n: Neuron.parse(of).score(model, image).squeeze())
    scores = Occlusion(8, 4, of=of).scores(model, images)
    assert falls.abs().max() > 1e-4
    torch.testing.assert_close(scores.falls, falls, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(scores.heatmap, heatmap, rtol=1e-9, atol=1e-14)
    assert scores.probabilities is scores.classes is None


class Colors(nn.Module):
    """Feature maps that are the color channels; returns no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"maps": self.maps(images)}


def test_of_a_layer_is_the_map_that_is_strongest_on_the_whole_image():
    images = torch.full((2, 3, 8, 8), 0.5)
    images[0, 0, :4, :4] = 1.0  # red leads, but for when its square is covered: then green does, a little
    images[0, 1, 4:, 4:] = 0.6
    images[1, 2] = 0.9
    found = Occlusion(4, 4, fill=0.0, of="maps").scores(Colors(), images)
    assert torch.equal(found.covered[0], Occlusion(4, 4, fill=0.0, of="maps:0").scores(Colors(), images).covered[0])
    assert torch.equal(found.covered[1], Occlusion(4, 4, fill=0.0, of="maps:2").scores(Colors(), images).covered[1])
    # a quarter of the positions, from 1 or 0.5 to 0
    torch.testing.assert_close(found.falls[0], torch.tensor([[0.25, 0.125], [0.125, 0.125]]))
    with pytest.raises(UsageError, match=r"has to return logits .* got dict; explain a layer with of="):
        Occlusion(4, 4)(Colors(), images)


def test_details_are_of_the_worst_window():
    model, images, target = mixed().double(), pictures(3, 20).double(), torch.tensor([1, 4, 2])
    for fill in (0.5, "mean", "blur"):
        method = Occlusion(8, 6, fill)
        scores, details = method.scores(model, images, target), method.details(model, images, target)
        assert torch.equal(details.heatmap, method(model, images, target))
        assert torch.equal(details.worst_fall, scores.falls.amax((1, 2)))
        assert torch.equal(details.classes, scores.classes)
        logits = model(details.worst).detach()
        fall = (model(images) - logits).detach()[range(3), target]
        torch.testing.assert_close(details.worst_fall, fall, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(details.worst_probability, logits.softmax(1)[range(3), target], rtol=1e-9, atol=0)
        for image, covered, (y0, x0, y1, x1) in zip(images, details.worst, details.worst_box.tolist(), strict=True):
            changed = (image != covered).any(0)
            assert changed.sum() > 0.9 * (y1 - y0) * (x1 - x0)
            assert changed[y0:y1, x0:x1].sum() == changed.sum(), "nothing changes outside of the window"
    neuron = Occlusion(8, 6, of="convolutions.2:1").details(model, images)
    assert neuron.worst_probability is neuron.classes is None
    assert neuron.worst.shape == images.shape


def test_how_windows_are_divided_over_calls_changes_nothing(monkeypatch):
    model, images = mixed().double(), pictures(3, 16).double()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    expected = Occlusion(4, 3)(model, images, torch.tensor([0, 1, 2]))
    assert sizes == [3, 75], "the images, then all their windows in one call"
    for pixels, most in [(1, 1), (256 * 7, 7), (256 * 30, 30)]:
        sizes.clear()
        monkeypatch.setitem(occlusion.PIXELS, "cpu", pixels)
        found = Occlusion(4, 3)(model, images, torch.tensor([0, 1, 2]))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
        assert sum(sizes) == 3 + 75
        assert most >= max(sizes[1:]) >= min(sizes[1:]) >= max(sizes[1:]) - 1
    monkeypatch.setattr(occlusion, "PICTURES", 10)
    monkeypatch.setitem(occlusion.PIXELS, "cpu", 2**20)
    sizes.clear()
    Occlusion(4, 3)(model, images)
    assert max(sizes) == 10, "small pictures are bounded by their number"


def test_keeps_the_memory_format_of_the_images():
    images = pictures(2, 16)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        seen: list[Tensor] = []
        model = mixed()
        model.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        Occlusion(8, 8)(model, images.to(memory_format=memory_format))
        assert len(seen) == 2
        assert all(pictures.is_contiguous(memory_format=memory_format) for pictures in seen)


def test_a_fill_of_the_images_own_color_changes_nothing():
    images = torch.full((1, 3, 16, 16), 0.25)
    for fill in (0.25, (0.25, 0.25, 0.25), "mean"):
        # a picture alone and one in a batch may be convolved by different code: some last bits of the score, about 0.1
        assert Occlusion(8, 4, fill)(mixed(), images).abs().max() < 1e-6
    # blurring adds up weights that are rounded
    assert Occlusion(8, 4, "blur")(mixed().double(), images.double()).abs().max() < 1e-12
    assert Occlusion(8, 4, 0.75)(mixed(), images).abs().max() > 1e-4


def test_works_in_inference_mode_and_on_a_model_made_there():
    images = pictures(2, 16)
    expected = Occlusion(8, 4)(mixed(), images)
    with torch.inference_mode():
        made = mixed()
        assert torch.equal(Occlusion(8, 4)(made, images), expected)
    found = Occlusion(8, 4)(made, images)
    assert torch.equal(found, expected)
    assert not found.is_inference()


def test_builds_no_graph():
    model = mixed()
    tracked: list[bool] = []
    model.register_forward_hook(lambda module, inputs, logits: tracked.append(logits.requires_grad))
    details = Occlusion(8, 4).details(model, pictures(2, 16).requires_grad_())
    assert not any(tracked)
    assert not any(value.requires_grad for value in details)


def test_half_precision_falls_are_in_float32():
    model, images = mixed(), pictures(2, 16)
    found = Occlusion(8, 4)(copy.deepcopy(model).bfloat16(), images.bfloat16(), TARGET % 5)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_means_of_half_precision_maps_are_not_rounded():
    model, images = mixed().bfloat16(), pictures(1, 16).bfloat16()
    neuron = Neuron("convolutions.3", 2)
    activation = activations(model, images, [neuron.layer])[neuron.layer]
    assert activation.dtype == torch.bfloat16
    expected = activation[:, 2].double().mean((1, 2))
    torch.testing.assert_close(neuron.read(activation).double(), expected, rtol=1e-6, atol=0)
    # bfloat16 means near one value would leave a handful of steps
    assert len(Occlusion(4, 2, of=neuron).scores(model, images).falls.unique()) > 30


def test_empty_and_single_pixel_images():
    scores = Occlusion(1, 1).scores(mixed(), torch.rand(0, 3, 2, 5))
    assert (scores.falls.shape, scores.classes.shape) == ((0, 2, 5), (0, 2, 5))
    details = Occlusion(1, 1, "blur").details(mixed(), torch.rand(0, 3, 2, 5))
    assert [tuple(value.shape) for value in details] == [(0, 1, 2, 5), (0, 3, 2, 5), (0, 4), (0,), (0,), (0, 2, 5)]
    model, image = mixed(), torch.rand(1, 3, 1, 1)
    fall = model(image)[0, 2] - model(torch.full_like(image, 0.5))[0, 2]
    torch.testing.assert_close(Occlusion(1, 1)(model, image, torch.tensor([2])).flatten(), fall.detach()[None])


def test_options_are_brought_to_their_types():
    assert (
        Occlusion((32, 16), 8, 1) == Occlusion("32x16", "8", "1") == Occlusion(Extent(32, 16), Extent(8, 8), Fill(1.0))
    )
    assert str(Occlusion("24").window) == "24"
    assert Occlusion(fill=(0.1, 0.2, 0.3)) == Occlusion(fill="0.1,0.2,0.3")
    assert Occlusion() == Occlusion("32", "16", "0.5", "logit", None)


def test_the_command_line_reads_the_options():
    arguments = ["--window", "32x16", "--stride", "8", "--fill", "blur", "--of", "layer4:3", "photos", "out"]
    given = command_of(method("occlusion")).make_context("occlusion", arguments).params
    options = {option.name: given[option.name] for option in method("occlusion").options}
    assert Occlusion(**options) == Occlusion((32, 16), 8, "blur", of="layer4:3")
    default = command_of(method("occlusion")).make_context("occlusion", ["photos", "out"]).params
    assert Occlusion(**{name: default[name] for name in options}) == Occlusion()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 8}, r"stride: expected at most the window, 8, so that all is covered; got 16"),
        ({"window": (32, 8), "stride": (8, 9)}, r"at most the window, 32x8, .* got 8x9"),
        ({"window": 0}, "option 'window': .*whole numbers above 0, got 0"),
        ({"window": 3.0}, "option 'window': size in pixels: expected a side"),
        ({"stride": True}, "option 'stride': size in pixels: .* got True"),
        ({"fill": "gray"}, "expected a grey or red,green,blue in"),
        ({"fill": 2}, r"expected a grey or red,green,blue in \[0, 1\], mean or blur, got 2"),
        ({"fill": float("nan")}, "got nan"),
        ({"fill": (0.1, 0.2)}, r"got \(0.1, 0.2\)"),
        ({"score": "odds"}, "takes one of logit, probability"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Occlusion(**options)


def test_refuses_what_it_cannot_explain():
    model, images = mixed(), pictures(2, 16)
    with pytest.raises(UsageError, match="window: expected at most the images' size, 16, got 17x16"):
        Occlusion((17, 16))(model, images)
    with pytest.raises(UsageError, match="classes 0 to 4, got 5 to 5"):
        Occlusion(8, 8)(model, images, torch.tensor([5, 5]))
    with pytest.raises(UsageError, match=r"use torch.tensor\(\[3\]\)"):
        Occlusion(8, 8)(model, images, 3)
    with pytest.raises(UsageError, match=r"a class .* or a neuron"):
        Occlusion(8, 8, of="head:1")(model, images, torch.tensor([1, 1]))
    with pytest.raises(UsageError, match="out of range, head has shape"):
        Occlusion(8, 8, of="head:5")(model, images)
    with pytest.raises(UsageError, match="floating-point"):
        Occlusion(8, 8)(model, images.mul(255).byte())


# Where the cat's head, the cup and the tripod are: rows and columns, read off the pictures by eye.
PHOTOGRAPHS = {
    "chelsea": ((168, 252), "Egyptian cat", (0, 168, 30, 205)),
    "coffee": ((200, 300), "espresso", (5, 190, 40, 240)),
    "camera": ((224, 224), "tripod", (60, 224, 85, 180)),
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_real_networks_evidence_lies_on_the_object(name, squeezenet):
    data = pytest.importorskip("skimage.data")
    (height, width), category, (y0, y1, x0, x1) = PHOTOGRAPHS[name]
    picture = Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    details = Occlusion(40, 40).details(squeezenet, image)
    assert squeezenet.categories[squeezenet(image).argmax()] == category
    evidence = details.heatmap[0, 0].clamp(min=0)
    y, x = divmod(int(evidence.argmax()), width)
    assert (y in range(y0, y1), x in range(x0, x1)) == (True, True)
    share = float(evidence[y0:y1, x0:x1].sum() / evidence.sum())
    assert share > 1.1 * (y1 - y0) * (x1 - x0) / (height * width)
    before = squeezenet(image).softmax(1).max()
    assert details.worst_probability < before - 0.01
