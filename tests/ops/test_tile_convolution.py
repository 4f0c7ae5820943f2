"""Convolutions on matrix tiles, their norms and the maps made of them, beside torch in float64."""

import ctypes
from mmap import PAGESIZE, mmap

import pytest
import torch
import torch.nn.functional as F

from afterimage.ops import kernels, tile_convolution
from afterimage.ops.tile_convolution import Maps, Norm, convolve, convolved, filled, has_tiles, packed

pytestmark = pytest.mark.skipif(
    not has_tiles(), reason="this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it"
)
PLAIN = 3e-6  # sums of up to some thousand terms in float32, of their largest
SPLIT = 2e-5  # and factors of 16 or 17 bits


def laid(maps, split):
    """Return `Maps` of (C, H, W), which has its edges, and the numbers that its planes hold, in float64."""
    channels, height, width = maps.shape
    planes = torch.zeros(2 if split else 1, Maps.numbers(height, width, channels), dtype=torch.bfloat16)
    flat = maps.permute(1, 2, 0).flatten()
    planes[0, : flat.numel()] = flat.bfloat16()
    if split:
        planes[1, : flat.numel()] = (flat - flat.bfloat16().float()).bfloat16()
    held = planes.double().sum(0)[: flat.numel()].view(height, width, channels).permute(2, 0, 1)
    return Maps(planes, height, width, channels), held


def held(weight, split):
    high = weight.bfloat16()
    return high.double() + ((weight - high.float()).bfloat16().double() if split else 0)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "edge", "size"),
    [
        (3, 32, (9, 9), (1, 1), 4, (21, 37)),
        (32, 64, (3, 3), (2, 2), 1, (34, 70)),
        (128, 128, (3, 3), (1, 1), 1, (9, 65)),
        (8, 8, (3, 3), (1, 1), 1, (5, 3)),
        (12, 40, (3, 3), (1, 1), 1, (4, 33)),
        (5, 17, (3, 3), (2, 2), 1, (6, 64)),
        (16, 24, (10, 12), (2, 4), 4, (16, 132)),
        (64, 40, (3, 3), (1, 1), 1, (100, 300)),
    ],
)
def test_sums_are_those_of_a_convolution(channels, outputs, kernel, stride, edge, size, split):
    torch.manual_seed(0)
    maps, exact = laid(torch.randn(channels, size[0] + 2 * edge, size[1] + 2 * edge), split)
    weight = torch.randn(outputs, channels, *kernel)
    bias = torch.randn(outputs)
    expected = F.conv2d(exact[None], held(weight, split), bias.double(), stride)[0].permute(1, 2, 0)
    sums = torch.full(expected.shape, float("nan"))
    convolved(maps, packed(weight, split, stride), sums, bias)
    error = (sums - expected).abs().max() / expected.abs().max()
    assert error < (SPLIT if split else PLAIN)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("channels", "outputs"), [(64, 32), (16, 8), (7, 40)])
def test_four_phases_are_a_transposed_convolution(channels, outputs, split):
    torch.manual_seed(0)
    maps, exact = laid(torch.randn(channels, 11, 40), split)
    weight = torch.randn(channels, outputs, 4, 4)
    expected = F.conv_transpose2d(exact[None], held(weight, split), stride=2, padding=3)[0].permute(1, 2, 0)
    turned = weight.transpose(0, 1).flip(2, 3)
    phases = torch.stack([torch.stack([turned[:, :, y::2, x::2] for x in (0, 1)]) for y in (0, 1)])
    sums = torch.full(expected.shape, float("nan"))
    convolved(maps, packed(phases, split), sums)
    assert (sums - expected).abs().max() < (SPLIT if split else PLAIN) * expected.abs().max()


def picture(kind):
    """Return maps whose mean, or whose first pixels, are far from most of them."""
    maps = torch.randn(16, 70, 45)
    if kind == "bright first columns":
        maps = maps / 1000
        maps[:, :, :4] += 30
    return maps + (1000 if kind == "large mean" else 0)


@pytest.mark.parametrize(
    ("kind", "close"), [("plain", 1e-6), ("large mean", 1e-5), ("bright first columns", 1e-6), ("four phases", 1e-6)]
)
def test_norms_are_those_of_the_sums(kind, close):
    """However far the first pixels are from the mean."""
    torch.manual_seed(0)
    maps, _ = laid(picture(kind), True)
    offset = 1000 if kind == "large mean" else 0
    weight, bias, shifted = torch.rand(24), torch.randn(24), torch.randn(24) if offset else None
    phases = 2 if kind == "four phases" else 1
    sums = torch.empty(68 * phases, 43 * phases, 24)
    weights = torch.randn(2, 2, 24, 16, 2, 2) if phases == 2 else torch.randn(24, 16, 3, 3)
    norm = convolved(maps, packed(weights, True), sums, shifted, Norm(weight, bias), 1e-5)
    variance, mean = torch.var_mean(sums.double(), (0, 1), correction=0)
    scale = weight / torch.sqrt(variance + 1e-5)
    torch.testing.assert_close(norm.scale.double(), scale, rtol=close, atol=0)
    normed = sums.double() * norm.scale + norm.shift
    torch.testing.assert_close(normed, (sums - mean) * scale + bias, rtol=0, atol=1e-6 * (10 + offset))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("channels", "edge"), [(3, 4), (8, 1), (20, 1), (32, 4)])
@pytest.mark.parametrize(
    ("rectify", "edges", "kept"),
    [(True, "reflect", False), (False, "repeat", True), (True, "repeat", False), (False, "zero", False)],
)
def test_maps_are_the_normed_sums_with_edges(channels, edge, split, rectify, edges, kept):
    torch.manual_seed(0)
    sums, norm = torch.randn(9, 13, channels), Norm(torch.randn(channels), torch.randn(channels))
    before = torch.randn(9, 13, channels) if kept else None
    trunk = None if before is None else before.clone()
    rows, columns = 9 + 2 * edge, 13 + 2 * edge
    planes = torch.full((2 if split else 1, Maps.numbers(rows, columns, channels)), float("nan"), dtype=torch.bfloat16)
    maps = filled(planes, sums, norm, edge, rectify=rectify, edges=edges, kept=trunk, add=kept)
    expected = (sums.double() * norm.scale + norm.shift).float()  # rounded once, as by a fused product and sum
    expected = expected if before is None else expected + before
    expected = expected.relu() if rectify else expected
    if trunk is not None:
        assert torch.equal(trunk, expected)
    mode = {"reflect": "reflect", "repeat": "replicate", "zero": "constant"}[edges]
    wanted = F.pad(expected.permute(2, 0, 1)[None], (edge,) * 4, mode=mode)[0].permute(1, 2, 0).flatten()
    assert torch.equal(planes[0, : wanted.numel()], wanted.bfloat16())
    if split:
        assert torch.equal(planes[1, : wanted.numel()], (wanted - wanted.bfloat16().float()).bfloat16())
    assert not planes[:, wanted.numel() :].any()  # which tiles multiply by zero
    assert (maps.rows, maps.columns, maps.channels) == (rows, columns, channels)


@pytest.mark.parametrize("band", [1, 2**15, 2**22])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(70, 33), (1, 1), (32, 64), (65, 2)])
def test_bands_are_convolved_as_one_picture(size, layout, band, monkeypatch):
    monkeypatch.setattr(tile_convolution, "BAND", band)
    torch.manual_seed(0)
    maps = torch.randn(2, 24, *size).contiguous(memory_format=layout)
    weight, bias = torch.randn(40, 24, 3, 3), torch.randn(40)
    came = convolve(maps, packed(weight, True), bias)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    assert (came - expected).abs().max() < SPLIT * expected.abs().max()
    assert came.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(convolve(maps[1:], packed(weight, True), bias), came[1:])


def test_what_is_no_number_stays_none():
    sums = torch.zeros(2, 2, 16)
    sums[0, 0, 0] = float("nan")
    planes = torch.zeros(1, Maps.numbers(4, 4, 16), dtype=torch.bfloat16)
    filled(planes, sums, Norm(torch.ones(16), torch.zeros(16)), 1)
    assert planes.isnan().any()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("channels", "stride", "kernel"), [(3, (1, 1), (9, 9)), (20, (2, 2), (3, 3)), (24, (2, 4), (10, 12))]
)
def test_no_tile_is_read_beyond_what_is_said(channels, stride, kernel, split):
    """The planes end where memory does; sanitizers do not see what tiles read."""
    rows, columns = 10 + 2 * stride[0], 12 + 5 * stride[1]
    size = ((rows - kernel[0]) // stride[0] + 1, (columns - kernel[1]) // stride[1] + 1)
    numbers, count = Maps.numbers(rows, columns, channels), 2 if split else 1
    length = -(-2 * count * numbers // PAGESIZE) * PAGESIZE
    memory = mmap(-1, length + PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + length), PAGESIZE, 0) == 0
    planes = torch.frombuffer(memory, dtype=torch.bfloat16, count=count * numbers, offset=length - 2 * count * numbers)
    maps = Maps(planes.zero_().view(count, numbers), rows, columns, channels)
    sums = torch.full((*size, 24), float("nan"))
    convolved(maps, packed(torch.randn(24, channels, *kernel), split, stride), sums)
    assert not sums.any()


def test_sums_and_norms_do_not_depend_on_threads(monkeypatch):
    torch.manual_seed(0)
    maps, _ = laid(torch.randn(32, 67, 45), True)
    weights = packed(torch.randn(64, 32, 3, 3), True)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(kernels, "threads", lambda count=threads: count)
        sums = torch.empty(65, 43, 64)
        norm = convolved(maps, weights, sums, norm=Norm(torch.ones(64), torch.zeros(64)))
        found.append(torch.cat([sums.flatten(), norm.scale, norm.shift]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
