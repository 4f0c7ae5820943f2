"""Painting by strips, with the statistics of the whole picture: exact at any size, in little memory.

A norm needs mean and variance of all positions, so each layer is gone through twice: once for them, and once,
normalized, by the layer after it. Strips are as wide as the picture, and take as many rows more of what they are made
from as their kernels reach; only at the picture's edges there is reflection. What lies at a quarter of the resolution
is kept, in memory or in a file; what is larger may be kept too, or be made again.

    conv1 → conv2 → conv3 = X        Y = conv(X), Y = conv(norm(Y)) in place, X += norm(Y), five times
    X → deconv1 → deconv2 → deconv3

Variances are merged from strip to strip: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing
sample variances, 1979, section 2.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from .net import BLOCKS, EPS
from .quick import Quick

Rows = Callable[[int, int], Tensor]
"""Rows from one place up to before another, `(1, C, rows, w)`."""
Progress = Callable[[int, int], None]
"""Steps done, steps in all."""
Keep = Literal["all", "memory", "file"]
"""Every layer in memory, or only those at a quarter of the resolution, in memory or in a file."""
LEAST_ROWS = 64
"""Of a strip: with fewer, the rows beyond it that its kernels reach would be most of the work."""
MARGIN = 2**30
"""Bytes of the disk that a file of maps leaves free."""


@dataclass(frozen=True)
class Picture:
    """A picture that is read and painted by rows: `read(low, high)` `(1, 3, rows, W)` in [0, 1], `write(low, rows)`."""

    height: int
    width: int
    read: Rows
    write: Callable[[int, Tensor], None]


class Settings(TypedDict, total=False):
    """How `paint` works: rows of a strip, what is kept, whom to tell."""

    rows: int
    keep: Keep
    progress: Progress | None


def picture_of(image: Tensor, painted: Tensor) -> Picture:
    """Return a picture that is read from and written to tensors `(3, H, W)`."""

    def write(low: int, rows: Tensor) -> None:
        painted[:, low : low + rows.shape[2]] = rows[0]

    return Picture(image.shape[1], image.shape[2], lambda low, high: image[None, :, low:high], write)


def rows_for(quick: Quick, picture: Picture, size: int) -> int:
    """Return how many rows a strip has whose largest map takes `size` bytes, but `LEAST_ROWS` at least."""
    row = quick.like.element_size() * quick.net.width * picture.width
    return max(LEAST_ROWS, size // row // 4 * 4)


def paint(
    quick: Quick,
    picture: Picture,
    strength: float,
    shares: Tensor,
    *,
    rows: int,
    keep: Keep = "all",
    progress: Progress | None = None,
) -> None:
    """Paint a picture by strips of `rows` rows, a multiple of 4; `shares` `(S,)`.

    What is read and written has the type of the network. Raises UsageError where a disk would not hold the maps.
    """
    whole = tuple(-(-side // 4) * 4 for side in (picture.height, picture.width))
    needed = map_bytes(quick, *whole)
    with _space(keep, quick.like, needed) as allocate:
        _Pass(quick, picture, whole, strength, shares, rows, keep, allocate, progress).run()


def map_bytes(quick: Quick, height: int, width: int) -> int:
    """Return the bytes of the two maps at a quarter of the resolution."""
    return 2 * quick.like.element_size() * 4 * quick.net.width * (height // 4) * (width // 4)


class _Layer:
    """Maps before their norm, made by strips; `scale` and `shift` `(1, C, 1, 1)` are known after `measure`."""

    def __init__(self, make: Rows, size: int, kept: Tensor | None) -> None:
        self.make, self.size, self.kept = make, size, kept
        self.scale = self.shift = torch.empty(0)

    def raw(self, low: int, high: int) -> Tensor:
        return self.make(low, high) if self.kept is None else self.kept[:, :, low:high]

    def active(self, low: int, high: int) -> Tensor:
        """Return rows after norm and ReLU."""
        return torch.addcmul(self.shift, self.raw(low, high), self.scale).relu_()


class _Moments:
    """Mean and sum of squared deviations `(C,)` of the positions seen, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Add the positions of maps `(1, C, h, w)`."""
        count = maps.shape[2] * maps.shape[3]
        mean = maps.mean((2, 3), keepdim=True)
        deviations = maps - mean
        squares = deviations.mul_(deviations).sum((0, 2, 3)).double()
        total, apart = self.count + count, mean.flatten().double() - self.mean
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + squares + apart**2 * (self.count * count / total)
        self.count = total

    def norm(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to multiply by and to add `(1, C, 1, 1)` for a norm's scale and shift `(C,)`."""
        factor = scale.double() / torch.sqrt(torch.as_tensor(self.squares) / self.count + EPS)
        both = (factor, shift.double() - factor * self.mean)
        return both[0].to(scale)[None, :, None, None], both[1].to(scale)[None, :, None, None]


class _Pass:
    """One picture's way through the network."""

    def __init__(
        self,
        quick: Quick,
        picture: Picture,
        whole: tuple[int, ...],
        strength: float,
        shares: Tensor,
        rows: int,
        keep: Keep,
        allocate: Callable[[int, int, int], Tensor],
        progress: Progress | None,
    ) -> None:
        self.quick, self.picture, self.strength, self.shares = quick, picture, strength, shares
        (self.height, self.width), self.rows, self.keep = whole, rows, keep
        self.allocate, self.progress = allocate, progress
        self.done, self.steps = 0, self._steps()

    def run(self) -> None:
        """Paint the picture."""
        width = self.quick.net.width
        room = [self._maps(scale, scale * width) if self.keep == "all" else None for scale in (1, 2)]
        maps, inner = (self._maps(4, 4 * width) for _ in range(2))
        self._shrink(room, maps)
        for number in range(1, BLOCKS + 1):
            self._block(f"res{number}", maps, inner)
        self._grow(room, maps)

    def _shrink(self, room: Sequence[Tensor | None], maps: Tensor) -> None:
        """Make the activations at a quarter of the resolution."""
        first = _Layer(
            lambda low, high: self._convolved("conv1", self._levels, self.height, low, high), self.height, room[0]
        )
        second = _Layer(self._follows(first, "conv2"), self.height // 2, room[1])
        third = _Layer(self._follows(second, "conv3"), self.height // 4, maps)
        for number, layer in enumerate((first, second, third)):
            self._measure(layer, f"in{number + 1}", 2**number)
        for low, high in self._strips(third.size):
            maps[:, :, low:high] = third.active(low, high)

    def _grow(self, room: Sequence[Tensor | None], maps: Tensor) -> None:
        """Make the picture of the maps that the blocks gave."""
        half = _Layer(
            self._doubles(lambda low, high: maps[:, :, low:high], "deconv1", self.height // 4),
            self.height // 2,
            room[1],
        )
        full = _Layer(self._doubles(half.active, "deconv2", self.height // 2), self.height, room[0])
        for name, layer in (("in4", half), ("in5", full)):
            self._measure(layer, name)
        self._paint(full)

    def _maps(self, scale: int, channels: int) -> Tensor:
        return self.allocate(channels, self.height // scale, self.width // scale)

    def _strips(self, size: int, share: int = 1) -> Iterator[tuple[int, int]]:
        rows = self.rows // share
        for low in range(0, size, rows):
            yield low, min(low + rows, size)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.steps)

    def _steps(self) -> int:
        shares = (1, 1, 1) if self.keep == "all" else (1, 2, 4)
        full, half, quarter = (self.height // scale for scale in (1, 2, 4))
        begun = zip((full, half, quarter), shares, strict=True)
        ended = [(quarter, 1)] * (1 + 3 * BLOCKS) + [(half, 1), (full, 1), (full, 1)]
        return sum(-(-size // (self.rows // share)) for size, share in (*begun, *ended))

    def _measure(self, layer: _Layer, norm: str, scale: int = 1) -> None:
        """Go through a layer for its statistics, and keep it if it is to be kept.

        One at 1/scale of the resolution that is made from the picture again takes shorter strips.
        """
        moments = _Moments()
        for low, high in self._strips(layer.size, 1 if self.keep == "all" else scale):
            maps = layer.make(low, high)
            moments.add(maps)
            if layer.kept is not None:
                layer.kept[:, :, low:high] = maps
        layer.scale, layer.shift = moments.norm(*self.quick.norm(norm, self.shares))

    def _levels(self, low: int, high: int) -> Tensor:
        """Return rows of the picture, which beyond its end is reflected to a multiple of 4, times 255."""
        height, width = self.picture.height, self.picture.width
        images = (
            self.picture.read(min(low, 2 * height - 1 - high), min(high, height))
            if high > height
            else (self.picture.read(low, high))
        )
        images = F.pad(images, (0, self.width - width, 0, max(0, high - height)), mode="reflect")
        return images[:, :, low - high :].mul(255).contiguous(memory_format=torch.channels_last)

    def _convolved(self, name: str, read: Rows, size: int, low: int, high: int) -> Tensor:
        """Return rows of a layer of maps of `size` rows, reflected at the picture's edges only."""
        reach, stride = (4, 1) if name == "conv1" else (1, self.quick.strides[name])
        return self.quick.convolved(
            name, _edged(read, size, stride * low - reach, stride * (high - 1) + reach + 1, reach)
        )

    def _follows(self, before: _Layer, name: str) -> Rows:
        return lambda low, high: self._convolved(name, before.active, before.size, low, high)

    def _doubles(self, read: Rows, name: str, size: int) -> Rows:
        def rows(low: int, high: int) -> Tensor:
            first, last = low // 2, -(-high // 2)
            made = self.quick.doubled(name, _edged(read, size, first - 1, last + 1, 1, "replicate"))
            return made[:, :, low - 2 * first : high - 2 * first]

        return rows

    def _block(self, name: str, maps: Tensor, inner: Tensor) -> None:
        """Add a residual block's maps to `maps`; `inner` is room for them."""
        size = maps.shape[2]
        made = _Layer(
            lambda low, high: self._convolved(f"{name}.conv1", lambda a, b: maps[:, :, a:b], size, low, high),
            size,
            inner,
        )
        self._measure(made, f"{name}.in1")
        last, moments = inner[:, :, :0], _Moments()
        for low, high in self._strips(size):
            # the row above was overwritten by what was made of it
            def read(a: int, b: int, above: Tensor = last, low: int = low) -> Tensor:
                raw = torch.cat([above, inner[:, :, low:b]], 2) if a < low else inner[:, :, a:b]
                return torch.addcmul(made.shift, raw, made.scale).relu_()

            convolved = self._convolved(f"{name}.conv2", read, size, low, high)
            last = inner[:, :, high - 1 : high].clone()
            inner[:, :, low:high] = convolved
            moments.add(convolved)
        scale, shift = moments.norm(*self.quick.norm(f"{name}.in2", self.shares))
        for low, high in self._strips(size):
            maps[:, :, low:high] += torch.addcmul(shift, inner[:, :, low:high], scale)

    def _paint(self, full: _Layer) -> None:
        for low, high in self._strips(self.height):
            levels = self.quick.last(_edged(full.active, self.height, low - 4, high + 4, 4))
            end = min(high, self.picture.height)
            painted = (levels[:, :, : end - low, : self.picture.width] / 255).clamp_(0, 1)
            if self.strength < 1:
                painted = torch.lerp(self.picture.read(low, end), painted, self.strength)
            self.picture.write(low, painted)


def _edged(read: Rows, size: int, low: int, high: int, reach: int, mode: str = "reflect") -> Tensor:
    """Return rows of a map of `size` rows, with `reach` columns more on both sides; beyond its ends by the mode."""
    maps = read(max(low, 0), min(high, size))
    return F.pad(maps, (reach, reach, max(0, -low), max(0, high - size)), mode=mode)


@contextmanager
def _space(keep: Keep, like: Tensor, needed: int) -> Iterator[Callable[[int, int, int], Tensor]]:
    """Give a function that makes room for maps of so many channels, rows and columns, in channels last."""

    def in_memory(channels: int, height: int, width: int) -> Tensor:
        return like.new_empty(1, height, width, channels).movedim(3, 1)

    if keep != "file":
        yield in_memory
        return
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free - MARGIN
    if needed > free:
        told = f"{needed / 2**30:.1f} GiB of maps, {folder} has {max(free, 0) / 2**30:.1f} GiB to spare"
        raise UsageError(f"the picture takes {told}: set TMPDIR to a larger disk, or paint a smaller one")
    handle, name = tempfile.mkstemp(".maps")
    os.unlink(name)  # it is gone with its last user, however that ends
    with os.fdopen(handle, "r+b") as file:
        dtype = np.dtype(str(like.dtype).removeprefix("torch."))

        def in_file(channels: int, height: int, width: int) -> Tensor:
            offset = file.seek(0, os.SEEK_END)
            shape = (1, height, width, channels)
            if hasattr(os, "posix_fallocate"):  # a file with holes would end the process where the disk is full
                os.posix_fallocate(handle, offset, dtype.itemsize * channels * height * width)
            return torch.from_numpy(np.memmap(file, dtype, "r+", offset, shape)).movedim(3, 1)

        yield in_file
