"""Painting with a style network: pictures of any size and type in, painted pictures of the same size and type out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...errors import UsageError, nearest
from .contract import read_style_net
from .engines import ENGINES, Device, Engine, EngineName, Precision, TorchEngine
from .net import LEAST, StyleNet
from .probe import fastest
from .shares import placed
from .tiles import Keep, Picture, Progress, map_bytes, picture_of, rows_for

Bytes = npt.NDArray[np.uint8]
Shares = Mapping[str, float] | Tensor
LIMIT = 2**31
"""Bytes of memory that painting may take, beyond pictures and results, before it is done by strips."""
BYTES: dict[EngineName, int] = {"amx": 14, "onnxruntime": 44, "openvino": 29, "torch": 20}
"""That a pass takes for each pixel and filter of the first convolution, measured at 1024 × 1024."""


class StyleRuntime(nn.Module):
    """A style network, ready to paint: `runtime(images, strength=1.0, shares=None)`.

    `net` is the network, `styles` what it can paint, `about` what its file says besides, `engine` the name of what
    computes it, `probe` one line on how that was chosen.
    """

    def __init__(
        self,
        source: str | Path | StyleNet,
        *,
        engine: EngineName | Literal["auto"] = "auto",
        device: Device = "cpu",
        precision: Precision = "fp32",
        threads: int | None = None,
        tile: int | Literal["auto"] | None = "auto",
        batch_size: int = 4,
    ) -> None:
        """Make a runtime of an ONNX file that keeps the contract, of a file of weights, or of a network.

        `engine` "auto" takes the fastest of those that are installed, measured once per process; `threads` are torch's
        by default. Pictures whose pass would take more than `LIMIT` bytes are painted by torch in strips, with the same
        result in less memory: with `tile` a number of rows, a multiple of 4, all are, and with None none. `batch_size`
        pictures of one size are painted at a time where a sequence is given. Raises UsageError where files, engine,
        device or precision are not to be had.
        """
        super().__init__()
        self.net = source if isinstance(source, StyleNet) else read_style_net(Path(source))
        for name, value, known in (
            ("engine", engine, ("auto", *ENGINES)),
            ("device", device, ("cpu", "cuda")),
            ("precision", precision, ("fp32", "bf16")),
        ):
            if value not in known:
                raise UsageError(
                    f"{name}: expected one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}"
                )
        for name, number in (("threads", threads), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise UsageError(f"{name}: expected 1 or above, got {number}")
        if not (tile in ("auto", None) or (isinstance(tile, int) and tile > 0 and tile % 4 == 0)):
            raise UsageError(f"tile: expected 'auto', None or rows of a strip, a multiple of 4, got {tile!r}")
        self.tile = tile
        self.device, self.precision, self.batch_size = device, precision, batch_size
        self.threads = threads or torch.get_num_threads()
        self.engine: EngineName
        if engine == "auto":
            self.engine, self.probe = fastest(self.net, device, precision, self.threads)
        else:
            self.engine, self.probe = engine, f"{engine}, as asked"
        self._engine: Engine | None = None
        self._strips: TorchEngine | None = None
        self._ready()
        self.eval()

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the names of what the network can paint."""
        return self.net.styles

    @property
    def about(self) -> dict[str, Any]:
        """Return what the network's file says besides."""
        return self.net.about

    def __getstate__(self) -> dict[str, Any]:
        # sessions cannot be pickled: they are made where they are needed
        return {**super().__getstate__(), "_engine": None, "_strips": None}

    def _ready(self) -> Engine:
        """Return the engine, which is made where there is none."""
        if self._engine is None:
            self._engine = ENGINES[self.engine](self.net, self.device, self.precision, self.threads)
        return self._engine

    def forward(
        self,
        images: "Tensor | Bytes | Sequence[Bytes]",
        strength: float | Tensor | Sequence[float] = 1.0,
        shares: Shares | None = None,
    ) -> "Tensor | Bytes | list[Bytes]":
        """Return images painted, of the same type and size.

        Images are floating point `(N, 3, H, W)` in [0, 1]; or uint8, of numpy or torch, `(N, H, W, 3)` or `(H, W, 3)`;
        or a sequence of `(H, W, 3)` uint8 arrays of any sizes, painted in batches of one size and returned as a list in
        the order given. H and W ≥ 16. `strength`, one or one each, goes from the picture, 0, to the painting, 1.
        `shares` of the styles are scaled to add up to 1: by name, or a tensor `(S,)` or `(N, S)`; equal by default.
        Raises UsageError for what does not fit.
        """
        if isinstance(images, Tensor | np.ndarray):
            count = len(images) if images.ndim == 4 else 1
            how = strengths(strength, count), self.shares(shares, count)
            return self._tensor(images, *how) if isinstance(images, Tensor) else self._array(images, *how)
        return self._sequence(list(images), strengths(strength, len(images)), self.shares(shares, len(images)))

    def paint_large(
        self,
        image: Bytes,
        strength: float = 1.0,
        shares: Shares | None = None,
        *,
        out: Bytes | None = None,
        progress: Progress | None = None,
    ) -> Bytes:
        """Return a uint8 picture `(H, W, 3)` painted by strips, in `out` if given; both may be `np.memmap`.

        Beyond them it takes about `LIMIT` bytes of memory; where maps are larger than that, a file in the folder for
        temporary ones. `progress` is told after each strip. Raises UsageError where the disk has no room for it.
        """
        if image.ndim != 3:
            raise UsageError(f"image: expected one picture (H, W, 3), got {image.shape}")
        made = np.empty(image.shape, np.uint8) if out is None else out
        if made.shape != image.shape or made.dtype != np.uint8 or np.shares_memory(made, image):
            raise UsageError(f"out: expected another uint8 array {image.shape}, got {made.dtype} {made.shape}")
        size = _size(image)

        def read(low: int, high: int) -> Tensor:
            return unit(torch.from_numpy(np.array(image[low:high]))).to(self.device)

        def write(low: int, rows: Tensor) -> None:
            made[low : low + rows.shape[2]] = to_bytes(rows)[0].cpu().numpy()

        picture = Picture(*size, read, write)
        self._tile(picture, float(strengths(strength, 1)), self.shares(shares)[0], progress)
        return made

    def _tile(self, picture: Picture, strength: float, shares: Tensor, progress: Progress | None = None) -> None:
        """Paint a picture by strips."""
        if not isinstance(self._engine, TorchEngine):
            self._engine = None  # the memory that it keeps is needed here
        engine = self._strips
        if engine is None:
            own = self._engine or TorchEngine(self.net, self.device, self.precision, self.threads)
            assert isinstance(own, TorchEngine)
            engine = self._strips = own
        quick = engine.quick
        rows = self.tile if isinstance(self.tile, int) else rows_for(quick, picture, LIMIT // 16)
        keep: Keep = "memory" if map_bytes(quick, picture.height, picture.width) <= LIMIT // 2 else "file"
        engine.paint(picture, strength, shares.to(self.device), rows=rows, keep=keep, progress=progress)

    def _is_large(self, height: int, width: int) -> bool:
        return isinstance(self.tile, int) or (self.tile == "auto" and self._bytes(height, width) > LIMIT)

    def _bytes(self, height: int, width: int) -> int:
        """Return about what memory a pass over one picture takes."""
        return BYTES[self.engine] * self.net.width * height * width

    def shares(self, shares: Shares | None, count: int = 1) -> Tensor:
        """Return shares of the styles `(count, S)`, each row adding up to 1."""
        if shares is None:
            rows = torch.ones(1, len(self.styles))
        elif isinstance(shares, Tensor):
            rows = torch.atleast_2d(shares.detach().float().cpu())
        else:
            rows = torch.tensor([placed(self.styles, shares.items())])
        if rows.ndim != 2 or rows.shape[1] != len(self.styles) or len(rows) not in (1, count):
            expected = f"({len(self.styles)},) or ({count}, {len(self.styles)})"
            raise UsageError(f"shares: expected a tensor {expected}, got {tuple(rows.shape)}")
        total = rows.sum(1, keepdim=True)
        if not (bool((rows >= 0).all()) and bool(torch.isfinite(total).all()) and bool((total > 0).all())):
            raise UsageError(f"shares: expected none below 0 and some above it, got {rows.tolist()}")
        return (rows / total).expand(count, -1)

    def _sequence(self, images: list[Bytes], strength: Tensor, shares: Tensor) -> list[Bytes]:
        sizes: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
                came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise UsageError(f"image {place}: expected a uint8 array (H, W, 3), got {came}")
            sizes.setdefault(image.shape, []).append(place)
        painted: dict[int, Bytes] = {}
        for places in sizes.values():
            for start in range(0, len(places), self.batch_size):
                some = places[start : start + self.batch_size]
                batch = self._array(np.stack([images[place] for place in some]), strength[some], shares[some])
                painted.update(zip(some, batch, strict=True))
        return [painted[place] for place in range(len(images))]

    def _array(self, images: Bytes, strength: Tensor, shares: Tensor) -> Bytes:
        if not self._is_large(*_size(images)):
            own = torch.from_numpy(np.require(images, requirements=["C", "W"]))  # torch warns of what it may not write
            painted: Bytes = self._tensor(own, strength, shares).numpy()
            return painted
        made = np.empty(images.shape, np.uint8)
        for image, out, power, share in zip(_each(images), _each(made), strength, shares, strict=True):
            self.paint_large(image, float(power), share, out=out)
        return made

    def _tensor(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        size = _size(images)
        if images.dtype != torch.uint8:
            return self._floats(checked(images), strength, shares).to(images)
        if self._is_large(*size) and images.device.type == "cpu":
            return torch.from_numpy(self._array(images.numpy(), strength, shares))
        return to_bytes(self._floats(unit(images), strength, shares)).reshape(images.shape)

    def _floats(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return float32 images painted, on the device that they are on, as many at a time as `LIMIT` allows."""
        given = [one.detach().to(self.device, torch.float32) for one in (images, strength, shares)]
        made = torch.empty_like(given[0])
        if self._is_large(*images.shape[2:]):
            for image, result, power, share in zip(given[0], made, *given[1:], strict=True):
                self._tile(picture_of(image, result), float(power), share)
        else:
            size = max(1, LIMIT // self._bytes(*images.shape[2:]))
            for start in range(0, len(images), size):
                made[start : start + size] = self._ready()(*(one[start : start + size] for one in given))
        return made.to(images.device)


def _size(images: Tensor | Bytes) -> tuple[int, int]:
    """Return height and width of images; raise UsageError for shapes and types that are none, and for small ones."""
    levels = images.dtype in (torch.uint8, np.uint8)
    right = images.ndim in (3, 4) and images.shape[-1] == 3 if levels else images.ndim == 4 and images.shape[1] == 3
    if not right or not (levels or (isinstance(images, Tensor) and images.is_floating_point())):
        came = f"{images.dtype} {tuple(images.shape)}"
        raise UsageError(f"images: expected floats (N, 3, H, W) or uint8 (N, H, W, 3) or (H, W, 3), got {came}")
    height, width = images.shape[-3:-1] if levels else images.shape[2:]
    if min(height, width) < LEAST:
        raise UsageError(f"images: expected at least {LEAST} × {LEAST} pixels, got {height} × {width}")
    return height, width


def _each(images: Bytes) -> Bytes:
    return images if images.ndim == 4 else images[None]


def strengths(strength: float | Tensor | Sequence[float], count: int) -> Tensor:
    """Return strengths `(count,)` of one for all or one each."""
    values = torch.as_tensor(strength, dtype=torch.float32).detach().cpu()
    if values.ndim > 1 or values.numel() not in (1, count):
        raise UsageError(f"strength: expected one, or one for each of {count} images, got {tuple(values.shape)}")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise UsageError(f"strength: expected values in [0, 1], got {values.tolist()}")
    return values.reshape(-1).expand(count)


def checked(images: Tensor) -> Tensor:
    """Return floating-point images; raise UsageError unless their values are in [0, 1]."""
    if images.numel():
        least, most = (float(value) for value in images.aminmax())
        if not (least >= 0 and most <= 1):
            came = "NaN" if np.isnan(least) else f"{least:.4g} to {most:.4g}"
            raise UsageError(f"images: expected values in [0, 1], got {came}; divide levels by 255")
    return images


def unit(levels: Tensor) -> Tensor:
    """Return levels `(N, H, W, 3)` or `(H, W, 3)` as images `(N, 3, H, W)` in [0, 1]."""
    return levels.reshape(-1, *levels.shape[-3:]).movedim(3, 1).float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """Return images `(N, 3, H, W)` in [0, 1] as levels `(N, H, W, 3)`, rounded half to even."""
    return (images * 255).round().to(torch.uint8).movedim(1, 3).contiguous()
