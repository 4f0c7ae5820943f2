from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from afterimage.models.layers import activations, layers
from afterimage.models.receptive_field import ReceptiveField
from tests.networks import live, pictures

Chain = tuple[int, int, int]


def square(size: int, stride: int, start: int) -> ReceptiveField:
    return ReceptiveField(size, size, stride, stride, start, start)


def grown(chain: Chain, kernel: int, stride: int, padding: int) -> Chain:
    """The recurrence of the textbooks: r += (k − 1) j, start −= p j, j *= s."""
    size, jump, start = chain
    return size + (kernel - 1) * jump, jump * stride, start - padding * jump


def fields(network: nn.Module, side: int) -> dict[str, ReceptiveField | None]:
    return {info.name: info.receptive_field for info in layers(network, (side, side))}


def test_every_layer_of_vgg16() -> None:
    network = torchvision.models.vgg16(weights=None, init_weights=False)
    found = fields(network, 224)
    chain = (1, 1, 0)
    for index, module in enumerate(network.features):
        if not isinstance(module, nn.ReLU):
            kernel = module.kernel_size if isinstance(module, nn.MaxPool2d) else module.kernel_size[0]
            pool = isinstance(module, nn.MaxPool2d)
            chain = grown(chain, kernel, 2 if pool else 1, 0 if pool else 1)
        assert found[f"features.{index}"] == square(*chain)
    assert found["features.30"] == found["avgpool"] == square(212, 32, -90)
    for name in ("classifier.0", "classifier.3", "classifier.6", "classifier"):
        assert found[name] == square(224, 0, 0)


def test_every_layer_of_resnet18() -> None:
    found = fields(live("resnet18"), 224)
    chain = grown((1, 1, 0), 7, 2, 3)
    for name in ("conv1", "bn1", "relu"):
        assert found[name] == square(*chain)
    chain = grown(chain, 3, 2, 1)
    assert found["maxpool"] == square(*chain)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            prefix, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = square(*grown(chain, 1, stride, 0))
            chain = grown(chain, 3, stride, 1)
            assert found[f"{prefix}.conv1"] == found[f"{prefix}.bn1"] == found[f"{prefix}.relu"] == square(*chain)
            chain = grown(chain, 3, 1, 1)
            assert found[f"{prefix}.conv2"] == found[f"{prefix}.bn2"] == found[prefix] == square(*chain)
            if stride == 2:
                assert found[f"{prefix}.downsample"] == found[f"{prefix}.downsample.0"] == shortcut
    assert found["layer4"] == square(435, 32, -217)
    assert found["avgpool"] == found["fc"] == square(224, 0, 0)


def support(network: nn.Module, name: str, images: Tensor, y: int, x: int) -> tuple[int, int, int, int]:
    """First and last row and column where any channel's gradient is not zero for any image."""
    images = images.clone().requires_grad_()
    values = activations(network, images, [name])[name][:, :, y, x]
    # random weights, so that channels do not cancel
    weights = torch.rand(values.shape, generator=torch.Generator().manual_seed(3), dtype=values.dtype)
    (gradient,) = torch.autograd.grad((values * weights).sum(), images)
    seen = gradient.abs().amax((0, 1)) > 0
    rows, columns = (torch.nonzero(seen.any(dim)).flatten() for dim in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def expected(field: ReceptiveField, y: int, x: int) -> tuple[int, int, int, int]:
    top, left = field.top + y * field.stride_y, field.left + x * field.stride_x
    return top, top + field.height - 1, left, left + field.width - 1


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("googlenet", [*(f"inception3a.branch{i}" for i in (1, 2, 3, 4)), "inception3a", "maxpool2"]),
        ("densenet121", [*(f"features.denseblock1.denselayer{i}" for i in (1, 3, 6)), "features.denseblock1"]),
        ("squeezenet1_1", ["features.3", "features.3.expand1x1", "features.5"]),
        ("shufflenet_v2_x0_5", ["maxpool", "stage2.0.branch1", "stage2.0.branch2", "stage2.0"]),
    ],
)
def test_support_of_the_gradient(network: str, names: list[str]) -> None:
    model, side = live(network), 96
    found = fields(model, side)
    images = pictures(4, side) + 0.1 * torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    for name in names:
        field = found[name]
        assert field is not None
        y, x = ((side // 2 - field.top - field.height // 2) // field.stride_y for _ in range(2))
        assert support(model, name, images, y, x) == expected(field, y, x), name


def test_a_branch_sees_less_than_the_join() -> None:
    found = fields(live("googlenet"), 224)
    sizes = {name: field.height for name, field in found.items() if field}
    assert sizes["inception3a.branch1"] == 27
    assert sizes["inception3a.branch3"] == sizes["inception3a.branch2"] == sizes["inception3a"] == 43


class Positive(nn.Module):
    """Layers with positive weights and no rectifier: the gradient is positive on the whole receptive field."""

    def __init__(self, build: Callable[["Positive"], nn.Module]) -> None:
        super().__init__()
        self.body = build(self)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 0.5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images, *self.parts)


def channels_last(images: Tensor, dense: nn.Module) -> Tensor:
    return dense(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def halves(images: Tensor, convolution: nn.Module) -> Tensor:
    first, second = images.chunk(2, 1)
    joined = torch.cat([first, convolution(second)], 1)
    return joined.view(len(joined), 2, 3, *joined.shape[2:]).transpose(1, 2).flatten(1, 2)


REGULAR: dict[str, list[nn.Module]] = {
    "stride": [nn.Conv2d(3, 4, 5, 2, 2), nn.Conv2d(4, 4, 3, 3, 0)],
    "rectangle": [nn.Conv2d(3, 4, (3, 5), (1, 2), (1, 0)), nn.AvgPool2d((2, 1), (2, 1))],
    "dilation": [nn.Conv2d(3, 4, 3, 1, 2, dilation=2), nn.Conv2d(4, 4, 3, padding=1, dilation=1)],
    "groups": [nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Conv2d(6, 6, 3, padding=1, groups=6)],
    "pool": [nn.Conv2d(3, 4, 3, 1), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 3)],
    "padding": [nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 4, 2)],
    "residual": [
        nn.Conv2d(3, 4, 3),
        Apply(lambda x, f, g: f(x).add_(g(x)), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1, 2)),
        nn.Conv2d(4, 4, 3),
    ],
    "crop": [nn.Conv2d(3, 4, 3), Apply(lambda x, f: x[:, :, 2:-2, 2:-2] + f(x), nn.Conv2d(4, 4, 5))],
    "channels last": [nn.Conv2d(3, 4, 2, 2), Apply(channels_last, nn.Linear(4, 5)), nn.Conv2d(5, 4, 3, padding=1)],
    "shuffle": [nn.Conv2d(3, 6, 2, 2), Apply(halves, nn.Conv2d(3, 3, 3, padding=1)), nn.Conv2d(6, 4, 3)],
    "even bins": [nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(6), nn.Conv2d(4, 4, 3, padding=1)],
    "padding below": [nn.Conv2d(3, 4, 3), nn.ZeroPad2d((0, 2, 0, 1)), nn.Conv2d(4, 4, 3, 2)],
    "cropping above": [nn.Conv2d(3, 4, 3), nn.ZeroPad2d((-2, 0, -1, 0)), nn.Conv2d(4, 4, 3)],
    "batch norm": [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)],
}


@pytest.mark.parametrize("name", REGULAR)
def test_every_row_and_column_of_positive_networks(name: str) -> None:
    torch.manual_seed(0)
    network = Positive(lambda _: nn.Sequential(*REGULAR[name])).double().eval()
    side = 24
    field = fields(network, side)["body"]
    assert field is not None
    images = torch.ones(1, 3, side, side, dtype=torch.float64)
    shape = activations(network, images, ["body"])["body"].shape
    inside = 0
    for position in range(max(shape[2:])):
        y, x = position % shape[2], (position + 1) % shape[3]
        top, bottom, left, right = expected(field, y, x)
        seen = support(network, "body", images, y, x)
        clipped = max(top, 0), min(bottom, side - 1), max(left, 0), min(right, side - 1)
        inside += clipped == (top, bottom, left, right)
        if clipped == (top, bottom, left, right):
            assert seen == clipped
        else:  # taps of a dilated window may leave a gap at the border
            assert all(low <= value for low, value in zip(clipped[::2], seen[::2], strict=True))
            assert all(high >= value for high, value in zip(clipped[1::2], seen[1::2], strict=True))
    assert inside > 0


WHOLE: dict[str, nn.Module] = {
    "mean": Apply(lambda x: x.mean((2, 3))),
    "flatten": nn.Sequential(nn.Flatten(), nn.Linear(4 * 484, 2)),
    "uneven bins": nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(4 * 49, 2)),
    "maximum": nn.AdaptiveMaxPool2d(1),
    "squeeze and excitation": nn.Sequential(Apply(lambda x: x * x.mean((2, 3), keepdim=True)), nn.Conv2d(4, 2, 3)),
    "tokens": Apply(lambda x: x.flatten(2).transpose(1, 2).softmax(1).sum(1)),
    "attention": Apply(
        lambda x: functional.scaled_dot_product_attention(*(3 * [x.flatten(2).transpose(1, 2)])).mean(1)
    ),
    "instance norm": nn.InstanceNorm2d(4),
    "group norm": nn.GroupNorm(2, 4),
    "gram": Apply(lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).flatten(1)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_unites_all_positions_sees_the_whole_image(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), WHOLE[name])
    assert fields(network, 24)["1"] == square(24, 0, 0)


def test_pixels_that_no_position_reaches_are_not_seen() -> None:
    found = fields(nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.AdaptiveAvgPool2d(1)), 24)
    assert found["1"] == square(23, 0, 0)


def rewritten(images: Tensor, convolution: nn.Module) -> Tensor:
    result = torch.zeros(1, 4, *images.shape[2:])
    result[:, 1:3] = convolution(images)[:, 1:3]
    return result


UNKNOWN: dict[str, nn.Module] = {
    "transposed": nn.ConvTranspose2d(4, 4, 3, 2),
    "upsampling": nn.Upsample(scale_factor=2),
    "strided view": nn.Sequential(Apply(lambda x: x[:, :, ::2, ::2]), nn.Conv2d(4, 4, 3)),
    "pixel shuffle": nn.PixelShuffle(2),
    "uneven bins": nn.AdaptiveAvgPool2d(7),
    "flatten": nn.Flatten(),
    "swapped axes": nn.Sequential(Apply(lambda x: x.transpose(2, 3)), nn.Conv2d(4, 4, 3)),
    "joined positions": Apply(lambda x: torch.cat([x, x], 2)),
    "flip": nn.Sequential(Apply(lambda x: x.flip(2)), nn.Conv2d(4, 4, 3)),
    "fourier transform": Apply(lambda x: torch.fft.fft2(x).real),
    "write through a view": Apply(rewritten, nn.Conv2d(4, 4, 3, padding=1)),
    "different steps": Apply(lambda x: x[:, :, :11, :11] + functional.max_pool2d(x, 2)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_said_is_unknown(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), UNKNOWN[name])
    found = fields(network, 24)
    assert found["1"] is None


def test_exported_programs_and_other_precisions() -> None:
    network = live("resnet18", 96)
    program = torch.export.export(network, (torch.rand(1, 3, 64, 64),))
    plain, exported = fields(network, 64), fields(torch.export.unflatten(program), 64)
    assert exported["layer3"] == plain["layer3"] == square(211, 16, -105)
    half = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)).bfloat16()
    assert fields(half, 16)["0"] == square(3, 2, -1)
