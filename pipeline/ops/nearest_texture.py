"""Texture of any size from a sample, pixel by pixel from its nearest neighborhood.

    d(p, q) = Σ_o |texture(p + o) - sample(q + o)|² + Σ_u |coarser texture(p/2 + u) - coarser sample(q/2 + u)|²
    texture(p) = sample(argmin_q d(p, q))
    texture(p) = sample(q), q at random of those with d(p, q) ≤ (1 + eps) min_q d(p, q)

o goes over what is above p or to its left in a window, u over a square of half that width. Levels of a Gaussian pyramid
follow each other from the coarsest, which has the first sum alone, pixels in scan-line order on a torus.

Wei, Levoy, Fast texture synthesis using tree-structured vector quantization, SIGGRAPH 2000: all but the third equation.
Efros, Leung, Texture synthesis by non-parametric sampling, ICCV 1999: the pick within 1 + eps.

All of it is in whole numbers of 8 bits, so that kernel and reference agree to the byte.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from . import kernels
from .arguments import check_tensor, described, is_dense_float
from .splitmix import random_bits

_ROWS = 64  # of a level between two calls of `progress`: seconds at most, and long enough for many threads


class _Level(NamedTuple):
    """One level of N textures, in 8 bits; the coarser one's tensors are None at the coarsest."""

    sample: Tensor  # (N, C, h, w)
    coarser_sample: Tensor | None  # (N, C, ⌈h/2⌉, ⌈w/2⌉)
    initial: Tensor  # (N, C, H, W): what stands for a pixel before its turn
    canvas: Tensor  # (N, C, H, W): the texture, begun as `initial`
    coarser_canvas: Tensor | None  # (N, C, ⌈H/2⌉, ⌈W/2⌉)
    sources: Tensor  # (N, H, W) int64: the place y w + x in the sample that a pixel is copied from
    coarser_sources: Tensor | None
    draws: Tensor | None  # (N, H, W) int64, 0 to 2³² - 1: what the pick within 1 + eps is made by


_Fill = Callable[[_Level, int, float | None, int, int], None]


def reference(level: _Level, window: int, eps: float | None, begin: int, end: int) -> None:
    """Fill rows [begin, end) of a level's canvas and sources, in plain torch."""
    height, width = level.sample.shape[-2:]
    bottom, right = _bounds(height, width, window, level.coarser_sample is not None)
    candidates = torch.cartesian_prod(torch.arange(window // 2, bottom), torch.arange(window // 2, right))
    for n, sample in enumerate(level.sample):
        coarser_sample = None if level.coarser_sample is None else level.coarser_sample[n]
        coarser_canvas = None if level.coarser_canvas is None else level.coarser_canvas[n]
        known = _neighborhoods(sample, coarser_sample, candidates, window)
        for y, x in _turns(begin, end, level.canvas.shape[-1], window):
            wanted = _neighborhoods(level.canvas[n], coarser_canvas, torch.tensor([[y, x]]), window)
            distances = (known - wanted).square().sum(1)
            near = _near(distances, eps)
            chosen = near[0] if level.draws is None else near[level.draws[n, y, x] * len(near) >> 32]
            from_y, from_x = candidates[chosen].tolist()
            level.canvas[n, :, y, x] = sample[:, from_y, from_x]
            level.sources[n, y, x] = from_y * width + from_x


def _turns(begin: int, end: int, width: int, window: int) -> Iterator[tuple[int, int]]:
    """Yield the pixels of rows [begin, end) in the order of their turns.

    Wei and Levoy begin every row at the left edge. Here each begins half a window to the right of the one above: on a
    torus no column is the first, and so rows can be filled at once, each a little behind the one above.
    """
    return ((y, (y * (window // 2) + i) % width) for y in range(begin, end) for i in range(width))


def _neighborhoods(picture: Tensor, coarser: Tensor | None, places: Tensor, window: int) -> Tensor:
    """Return what is compared of pixels y, x (Q, 2) of a picture (C, H, W) on a torus: (Q, F) int32."""
    half = window // 2
    above = [(dy, dx) for dy in range(-half, 1) for dx in range(-half, half + 1) if (dy, dx) < (0, 0)]
    parts = [_values(picture, places, above)]
    if coarser is not None:
        reach = range(-(half // 2), half // 2 + 1)
        parts.append(_values(coarser, places // 2, [(dy, dx) for dy in reach for dx in reach]))
    return torch.cat(parts, 1)


def _values(picture: Tensor, places: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    y, x = (places[:, None] + torch.tensor(offsets)).unbind(2)
    return picture[:, y % picture.shape[1], x % picture.shape[2]].movedim(0, 1).flatten(1).int()


def _near(distances: Tensor, eps: float | None) -> Tensor:
    """Return which candidates may be taken, in the order of the sample."""
    best = int(distances.min())
    limit = best if eps is None else int(best * (1.0 + eps))
    return (distances <= limit).nonzero()[:, 0]


def _bounds(height: int, width: int, window: int, coarser: bool) -> tuple[int, int]:
    """Return where candidates end, which begin at window // 2 both ways: their neighborhoods lie in the sample."""
    half = window // 2
    if not coarser:
        return height, width - half
    bottom, right = (2 * ((length + 1) // 2 - half // 2) for length in (height, width))
    return min(height, bottom), min(width - half, right)


def _fill() -> _Fill:
    """Return the kernel, called as the reference is, or the reference."""
    kernel = kernels.kernel("nearest_texture", torch.empty(0, dtype=torch.uint8))
    if kernel is None:
        return reference

    def fill(level: _Level, window: int, eps: float | None, begin: int, end: int) -> None:
        number, channels, height, width = level.sample.shape
        bounds = _bounds(height, width, window, level.coarser_sample is not None)
        sizes = (number, channels, height, width, *bounds, *level.canvas.shape[-2:])
        addresses = (0 if tensor is None else tensor.data_ptr() for tensor in level)
        kernel(*addresses, *sizes, window, eps or 0.0, begin, end)

    return fill


@torch.library.custom_op("afterimage::nearest_texture", mutates_args=())
def _sources(
    samples: Tensor, height: int, width: int, seeds: Tensor, window: int, levels: int, eps: float | None
) -> Tensor:
    return _synthesized(samples, (height, width), seeds, window, levels, eps, None)


@_sources.register_fake
def _sources_fake(
    samples: Tensor, height: int, width: int, seeds: Tensor, window: int, levels: int, eps: float | None
) -> Tensor:
    return samples.new_empty((len(samples), height, width), dtype=torch.int64)


def nearest_texture(
    samples: Tensor,
    size: tuple[int, int],
    seeds: Tensor,
    window: int = 9,
    levels: int = 3,
    eps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return a texture (N, C, H, W) for each sample (N, C, h, w), made of copies of its pixels; it tiles.

    Always computed on the CPU. The result depends on nothing but the arguments, and no texture on the others. To a
    gradient, the choice of pixels is fixed, and each copy passes its part on to the pixel that it was made of.

    Args:
        samples: uint8, or floating point in [0, 1], which is compared in 8 bits and copied as it is.
        size: height and width of the textures, larger or smaller than the samples.
        seeds: (N,) int64; the random numbers of a texture depend on its own alone.
        window: width of the neighborhood, odd, at least 3: that of the largest structure that should come out whole.
        levels: of the pyramid; the window has to fit into the sample at each, where it is halved (levels - 1) times.
        eps: None takes the nearest, the first of those equally near; a number, at random among those within 1 + eps.
        progress: called now and then with the pixels done and in all, of all levels. What it raises ends the work.

    Raises:
        UsageError: on other samples, sizes, seeds and numbers, and where the window does not fit.
        TypeError: `samples` or `seeds` is no tensor.
    """
    _check_tensors(samples, seeds)
    _check_numbers(size, window, levels, eps)
    _check_fit(samples, window, levels)
    eps = None if eps is None else float(eps)
    if progress is None:
        sources = _sources(samples.detach(), *size, seeds, window, levels, eps)
    else:
        sources = _synthesized(samples.detach(), size, seeds, window, levels, eps, progress)
    return _copied(samples, sources)


def _synthesized(
    samples: Tensor,
    size: tuple[int, int],
    seeds: Tensor,
    window: int,
    levels: int,
    eps: float | None,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Return the place in its sample that each pixel is copied from: (N, H, W) int64."""
    fill, number = _fill(), len(samples)
    pyramid, sizes = [_quantized(samples)], [size]
    for _ in range(levels - 1):
        pyramid.append(_halved(pyramid[-1]))
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    done, total = 0, number * sum(height * width for height, width in sizes)
    level = None
    for depth in reversed(range(levels)):
        height, width = sizes[depth]
        level = _begun(pyramid[depth], (height, width), level, seeds.cpu(), depth, eps)
        for begin in range(0, height, _ROWS):
            end = min(begin + _ROWS, height)
            fill(level, window, eps, begin, end)
            done += number * (end - begin) * width
            if progress is not None:
                progress(done, total)
    assert level is not None
    return level.sources.to(samples.device)


def _begun(
    sample: Tensor, size: tuple[int, int], coarser: _Level | None, seeds: Tensor, depth: int, eps: float | None
) -> _Level:
    """Return a level before its first pixel."""
    height, width = sample.shape[-2:]
    if coarser is None:
        sources = random_bits(seeds, 2 * depth, size) * (height * width) >> 32
    else:  # Wei and Levoy begin with noise here too, which the first rows then follow more than their parents
        sources = _children(coarser, size, height, width)
    initial = _copied(sample, sources)
    draws = None if eps is None else random_bits(seeds, 2 * depth + 1, size)
    before = (None, None, None) if coarser is None else (coarser.sample, coarser.canvas, coarser.sources)
    return _Level(sample, before[0], initial, initial.clone(), before[1], sources, before[2], draws)


def _children(coarser: _Level, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Return the places in a sample of height × width that lie under what a coarser level shows: (N, H, W)."""
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    parents, stride = coarser.sources[:, y // 2, x // 2], coarser.sample.shape[-1]
    rows = (parents // stride * 2 + y % 2).clamp(max=height - 1)
    columns = (parents % stride * 2 + x % 2).clamp(max=width - 1)
    return rows * width + columns


def _copied(samples: Tensor, sources: Tensor) -> Tensor:
    """Return the pixels of samples (N, C, h, w) at places (N, H, W): (N, C, H, W)."""
    places = sources.flatten(1)[:, None].expand(-1, samples.shape[1], -1)
    return samples.flatten(2).gather(2, places).reshape(*samples.shape[:2], *sources.shape[1:])


def _quantized(samples: Tensor) -> Tensor:
    samples = samples.cpu()
    if samples.dtype != torch.uint8:
        outside = int((~((samples >= 0) & (samples <= 1))).sum())
        if outside:
            raise UsageError(f"samples: expected values from 0 to 1, {outside} are outside or NaN; clamp them")
        samples = (samples.float() * 255).round().to(torch.uint8)
    return samples.contiguous()


def _halved(images: Tensor) -> Tensor:
    """Return the next coarser level: weighted by (1, 3, 3, 1) / 8 both ways, edges repeated, every second pixel."""
    sums = images.int()
    for dim in (-2, -1):
        size = images.shape[dim]
        places = torch.arange(0, size, 2)[:, None] + torch.tensor([-1, 0, 1, 2])
        taps = sums.index_select(dim, places.clamp(0, size - 1).flatten()).unflatten(dim, places.shape)
        weights = torch.tensor([1, 3, 3, 1], dtype=torch.int32)
        sums = (taps * (weights if dim == -1 else weights[:, None])).sum(dim, dtype=torch.int32)
    return (sums + 32 >> 6).to(torch.uint8)


def _check_tensors(samples: Tensor, seeds: Tensor) -> None:
    for name, tensor in (("samples", samples), ("seeds", seeds)):
        check_tensor("nearest_texture", name, tensor)
    dense = is_dense_float(samples) or (samples.dtype == torch.uint8 and samples.layout is torch.strided)
    if samples.ndim != 4 or samples.shape[1] == 0 or not dense:
        raise UsageError(
            f"samples are {described(samples)}, expected a dense tensor (N, C, h, w) of uint8 or floating point"
        )
    if seeds.shape != samples.shape[:1] or seeds.dtype != torch.int64:
        raise UsageError(f"seeds are {described(seeds)}, expected int64 ({len(samples)},), one for each sample")


def _check_numbers(size: tuple[int, int], window: int, levels: int, eps: float | None) -> None:
    if len(size) != 2 or not all(_whole(length) and length >= 1 for length in size):
        raise UsageError(f"size is {size}, expected height and width, whole numbers of at least 1")
    if not _whole(window) or window < 3 or window % 2 == 0:
        raise UsageError(f"window is {window}, expected an odd whole number of at least 3")
    if not _whole(levels) or levels < 1:
        raise UsageError(f"levels is {levels}, expected a whole number of at least 1")
    if eps is not None and not (isinstance(eps, int | float) and not isinstance(eps, bool) and 0 <= eps < math.inf):
        raise UsageError(f"eps is {eps}, expected a finite number of at least 0, or None for the nearest alone")


def _check_fit(samples: Tensor, window: int, levels: int) -> None:
    """Raise where there is no candidate, or where numbers would leave the kernel's 32 bits."""
    channels, height, width = samples.shape[1:]
    half = window // 2
    if max(height, width, (height + 1) * (width + 1)) >= 2**31:
        raise UsageError(f"samples are {height} × {width} pixels, expected fewer than 2³¹; cut out a part")
    compared = channels * (window * half + half + (half // 2 * 2 + 1) ** 2)
    if compared * 255**2 >= 2**31:
        raise UsageError(f"window {window} compares {compared} values, expected at most {2**31 // 255**2}; take less")
    for level in range(1, levels + 1):
        bottom, right = _bounds(height, width, window, coarser=level < levels)
        if bottom <= half or right <= half:
            raise UsageError(
                f"window {window} does not fit into the sample at level {level} of {levels}, {height} × {width} pixels"
                " there; take fewer levels, a smaller window or a larger sample"
            )
        height, width = (height + 1) // 2, (width + 1) // 2


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
