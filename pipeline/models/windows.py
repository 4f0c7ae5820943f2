"""Windows over a picture: their size, the grid of their places, what covers them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageError, nearest

BLUR = 1 / 4
"""Standard deviation of the fill `blur` as a share of the window's side, for each axis its own: 8 pixels for 32, with
which structure smaller than the window fades. (Fong and Vedaldi 2017, arXiv:1704.03296, blur 224 pixels by 10.)"""

_SIDES = "size in pixels: expected a side or height and width, whole numbers above 0"
_PICTURED: tuple[Literal["mean"], Literal["blur"]] = ("mean", "blur")
_FILLS = "fill: expected a grey or red,green,blue in [0, 1], mean or blur"


@dataclass(frozen=True)
class Extent:
    """Height and width in pixels, written as one side, `32`, or `HEIGHTxWIDTH`, `32x16`."""

    height: int
    width: int

    def __post_init__(self) -> None:
        """Check that both are whole numbers above 0. Raises UsageError."""
        if any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in (self.height, self.width)):
            raise UsageError(f"{_SIDES}, got {self}")

    @classmethod
    def parse(cls, text: str) -> "Extent":
        """Read `side` or `HEIGHTxWIDTH`. Raises UsageError."""
        sides = text.split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
            raise UsageError(f"size in pixels: expected a side, as 32, or HEIGHTxWIDTH, as 32x16, got {text!r}")
        return cls(int(sides[0]), int(sides[-1]))

    @classmethod
    def of(cls, value: "Extent | int | tuple[int, int]") -> "Extent":
        """Return an extent as it is, or the one of a side or of height and width. Raises UsageError."""
        if isinstance(value, Extent):
            return value
        sides = value if isinstance(value, tuple) else (value, value)
        if len(sides) != 2:
            raise UsageError(f"{_SIDES}, got {value}")
        return cls(*sides)

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Fill:
    """What covers a window: a grey or a color in [0, 1], the image's own `mean` color, or the image under `blur`."""

    value: float | tuple[float, float, float] | Literal["mean", "blur"]

    def __post_init__(self) -> None:
        """Check that a grey is one number in [0, 1] and a color three. Raises UsageError."""
        if isinstance(self.value, str):
            fits = self.value in _PICTURED
        else:
            numbers = self.value if isinstance(self.value, tuple) else (self.value,) * 3
            real = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
            fits = len(numbers) == 3 and real and all(0 <= one <= 1 for one in numbers)
        if not fits:
            raise UsageError(f"{_FILLS}, got {self.value!r}")

    @classmethod
    def parse(cls, text: str) -> "Fill":
        """Read a number, `red,green,blue`, `mean` or `blur`. Raises UsageError."""
        for name in _PICTURED:
            if text == name:
                return cls(name)
        try:
            numbers = tuple(map(float, text.split(",")))
        except ValueError:
            raise UsageError(f"{_FILLS}, got {text!r}{nearest(text, _PICTURED, 1)}") from None
        return cls(numbers if len(numbers) > 1 else numbers[0])  # type: ignore[arg-type] # its own check counts them

    @classmethod
    def of(cls, value: "Fill | float | tuple[float, float, float]") -> "Fill":
        """Return a fill as it is, or the one of a grey or a color. Raises UsageError."""
        return value if isinstance(value, Fill) else cls(value)

    def __str__(self) -> str:
        if isinstance(self.value, tuple):
            return ",".join(str(float(one)) for one in self.value)
        return self.value if isinstance(self.value, str) else str(float(self.value))

    def over(self, images: Tensor, window: Extent) -> Sequence[float | Tensor]:
        """Return what `occlude` takes as fill for each of the images `(N, C, H, W)`."""
        if self.value == "mean":
            return list(images.mean((2, 3)))
        if self.value == "blur":
            return list(blurred(images, window.height * BLUR, window.width * BLUR))
        color = images.new_tensor(self.value) if isinstance(self.value, tuple) else self.value
        return [color] * len(images)


def blurred(images: Tensor, down: float, across: float) -> Tensor:
    """Blur images `(N, C, H, W)` by a Gaussian of these standard deviations; beyond the border there is nothing."""
    height, width = images.shape[2:]
    return _gaussian(height, down, images) @ images @ _gaussian(width, across, images).T


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    places = torch.arange(size, dtype=torch.float64, device=like.device)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


@dataclass(frozen=True)
class Grid:
    """Windows at 0, s, 2s … until an image of `size` is covered; the last ones are clipped at its border."""

    size: Extent
    window: Extent
    stride: Extent

    def __post_init__(self) -> None:
        """Check that the window has room in the image. Raises UsageError."""
        if self.window.height > self.size.height or self.window.width > self.size.width:
            expected = f"window: expected at most the images' size, {self.size}, got {self.window}"
            raise UsageError(f"{expected}; use a smaller window or larger images")

    @property
    def rows(self) -> range:
        """The first pixel row of each row of windows."""
        return range(0, self.size.height - self.window.height + self.stride.height, self.stride.height)

    @property
    def columns(self) -> range:
        """The first pixel column of each column of windows."""
        return range(0, self.size.width - self.window.width + self.stride.width, self.stride.width)

    def boxes(self) -> Tensor:
        """Return the windows `(rows · columns, 4)` int64, row by row: y0, x0, y1, x1, half open."""
        corners = torch.cartesian_prod(torch.tensor(self.rows), torch.tensor(self.columns))
        opposite = corners + torch.tensor([self.window.height, self.window.width])
        return torch.cat([corners, opposite.minimum(torch.tensor([self.size.height, self.size.width]))], 1)

    def spread(self, values: Tensor) -> Tensor:
        """Return maps `(N, 1, H, W)`: at each pixel the mean of `values` `(N, rows, columns)` over its windows."""
        down = _covers(self.rows, self.window.height, self.size.height, values.device)
        across = _covers(self.columns, self.window.width, self.size.width, values.device)
        maps = down.T @ values.double() @ across / (down.sum(0)[:, None] * across.sum(0))
        return maps.to(values.dtype).unsqueeze(1)


def _covers(starts: range, length: int, size: int, device: torch.device) -> Tensor:
    """Return a matrix `(windows, pixels)` with 1 where the window covers the pixel."""
    distance = torch.arange(size, device=device) - torch.tensor(starts, device=device)[:, None]
    return ((distance >= 0) & (distance < length)).double()
