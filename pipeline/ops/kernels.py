"""The compiled kernels: found, checked and announced once."""

import importlib
import os
import threading
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from ..errors import UsageError

_MODULE = "afterimage._cpu"
_lock = threading.Lock()


def cpu() -> ModuleType | None:
    """Return the module of CPU kernels, or None where the references in torch are to be used.

    That is so where the module was not built (a warning says it once) and under ``AFTERIMAGE_KERNELS=reference``.

    Raises:
        ImportError: the module is there but does not load.
        UsageError: ``AFTERIMAGE_KERNELS`` or ``AFTERIMAGE_ISA`` holds a value that means nothing here.
    """
    with _lock:  # autograd and loaders call from several threads, and functools.cache may then call twice
        return _cpu()


@cache
def _cpu() -> ModuleType | None:
    choice = os.environ.get("AFTERIMAGE_KERNELS", "")
    if choice not in ("", "reference"):
        raise UsageError(f"AFTERIMAGE_KERNELS is {choice!r}, expected 'reference'; unset it for the compiled kernels")
    if choice == "reference":
        return None
    if find_spec(_MODULE) is None:
        warnings.warn(
            f"{_MODULE} is not built: references in torch are used, slower; 'pip install .' builds it", stacklevel=2
        )
        return None
    return _loaded()


def threads() -> int:
    """Return how many threads a kernel may use: ``AFTERIMAGE_NUM_THREADS``, or else as many as torch.

    Raises:
        UsageError: the variable is no whole number above 0.
    """
    asked = os.environ.get("AFTERIMAGE_NUM_THREADS", "")
    if not asked:
        return torch.get_num_threads()
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"AFTERIMAGE_NUM_THREADS is {asked!r}, expected a whole number above 0; unset it for torch's")
    return int(asked)


def _loaded() -> ModuleType:
    try:
        module = importlib.import_module(_MODULE)
    except ImportError as cause:
        raise ImportError(f"{_MODULE} is built but does not load: {cause}; 'pip install .' builds it anew") from cause
    try:
        module.isa()
    except ValueError as cause:
        raise UsageError(str(cause)) from cause
    return module


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` with the strides of `like`, copied only where they differ. Shapes have to be equal."""
    pairs = zip(tensor.stride(), like.stride(), like.shape, strict=True)
    same = like.numel() == 0 or all(mine == other for mine, other, length in pairs if length > 1)
    return tensor if same else like.new_empty_strided(like.shape, like.stride()).copy_(tensor)
