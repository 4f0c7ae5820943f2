"""A style network as one ONNX file, which is kept only if it computes what the network computes."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import UsageError
from ..checkpoint import check_finite
from .contract import style_model
from .engines import session
from .graph import INPUTS, OUTPUT, Pixels
from .net import StyleNet

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CASES = (*((count, 16, 16) for count in (1, 2, 3)), (1, 17, 33), (2, 17, 33), (3, 64, 48), (2, 255, 511))
"""Numbers and sizes of the pictures that a file has to paint as its network does."""
TOLERANCE = 0.25 / 255
"""A quarter of a level: float32 sums of some thousand products, in another order, 16 times one after the other."""


class ExportError(RuntimeError):
    """A file does not compute what its network computes, and was not kept."""


def export_style_net(net: StyleNet, path: str | Path, *, pixels: Pixels = "float32") -> None:
    """Write a network to an ONNX file that keeps the contract of `contract.py`, and compare what the two paint.

    `pixels` is the type of the images that the file takes and gives: "float32" `(N, 3, H, W)` in [0, 1], or "uint8"
    `(N, H, W, 3)`. Weights are kept in float32. Until all is well, the file has another name; nothing is left of one
    that is not. Raises UsageError for weights that are not finite and folders that cannot be written, ExportError where
    the file paints otherwise.
    """
    path = Path(path)
    exact = _exact(net, path)
    with _beside(path) as part:
        part.write_bytes(style_model(exact, pixels).SerializeToString())
        _check(part)
        compare(exact, part, CASES)
        os.replace(part, path)


def _exact(net: StyleNet, path: Path) -> StyleNet:
    state = {name: value.detach().to("cpu", torch.float32) for name, value in net.state_dict().items()}
    check_finite(state, path)
    copy = StyleNet(net.width, net.styles, net.about)
    copy.load_state_dict(state)
    return copy.eval()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give the path of a new file in the same folder, which is gone afterwards unless it was renamed."""
    try:
        handle, name = tempfile.mkstemp(".onnx", f".{path.stem}-", path.parent)
    except OSError as exc:
        raise UsageError(f"{path}: cannot write to its folder ({exc.strerror}); choose another") from exc
    os.close(handle)
    try:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # as of any new file; a temporary one is private
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _check(path: Path) -> None:
    from onnx import checker

    try:
        checker.check_model(str(path), full_check=True)
    except (checker.ValidationError, RuntimeError) as exc:
        raise ExportError(f"the graph is not valid ONNX: {str(exc).splitlines()[0]}") from exc


def compare(net: StyleNet, path: Path, cases: Iterable[tuple[int, int, int]]) -> None:
    """Paint pictures of noise, `cases` their numbers and sizes, with a float32 network and an exported file.

    Raises ExportError where they differ by more than `TOLERANCE`, for 8 bits by more than one level, or where a
    strength of 0 changes anything.
    """
    run = session(path.read_bytes(), torch.get_num_threads())
    for case in cases:
        _compare(net, run, case)


def _compare(net: StyleNet, run: "InferenceSession", case: tuple[int, int, int]) -> None:
    pixels: Pixels = "uint8" if run.get_inputs()[0].type == "tensor(uint8)" else "float32"
    images, strength, shares = _noise(net, case)
    inputs = dict(zip(INPUTS, (_given(images, pixels), strength.numpy(), shares.numpy()), strict=True))
    came: npt.NDArray[Any] = run.run([OUTPUT], inputs)[0]
    with torch.inference_mode():
        expected = _given(net(images, shares, strength), pixels)
    if came.shape != expected.shape or came.dtype != expected.dtype:
        raise ExportError(f"the file gives {came.dtype} {came.shape} for pictures {expected.dtype} {expected.shape}")
    error = float(np.abs(came.astype(np.float64) - expected).max())
    most = 1 if pixels == "uint8" else TOLERANCE
    if not error <= most:
        raise ExportError(
            f"the file paints {case[0]} × {case[1]} × {case[2]} otherwise than its network, by {error:.3g}"
        )
    kept = [(came[place], inputs["images"][place]) for place in range(case[0]) if strength[place] == 0]
    if not all(np.array_equal(*pair) for pair in kept):
        raise ExportError("the file changes pictures at strength 0")


def _noise(net: StyleNet, case: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    count, height, width = case
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (count, 3, height, width), generator=generator)
    shares = torch.rand(count, len(net.styles), generator=generator) + 0.01
    return levels / 255, torch.tensor([1.0, 0.0, 0.6])[:count], shares / shares.sum(1, keepdim=True)


def _given(images: Tensor, pixels: Pixels) -> npt.NDArray[Any]:
    if pixels == "float32":
        return images.numpy()
    return np.ascontiguousarray((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
