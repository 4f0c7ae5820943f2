"""The compiled kernels: found, checked and announced once per device."""

import importlib
import os
import threading
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError

_MODULES = {"cpu": "afterimage._cpu", "cuda": "afterimage._cuda"}
_BUILDS = {"cpu": "'pip install .' builds it", "cuda": "'pip install .' builds it where nvcc is found"}
_lock = threading.Lock()


def kernel(name: str, tensor: Tensor) -> Callable[..., Any] | None:
    """Return the kernel called `name` for the device and type of `tensor`, or None where the reference is to be used.

    A kernel takes addresses (`Tensor.data_ptr()`), sizes and options; how many threads it may use, or which device
    and stream, is appended here. None: the type or the device has none, or `module` says so.
    """
    found = module(tensor.device.type) if tensor.device.type in _MODULES else None
    name = f"{name}_{str(tensor.dtype).removeprefix('torch.')}"
    function = getattr(found, name, None)
    if function is None:
        return None
    if tensor.device.type == "cpu":
        return partial(_call_on_cpu, function)
    return partial(_call_on_cuda, function, getattr(found, f"{name}_workspace", None), tensor.device)


def _call_on_cpu(function: Callable[..., Any], *arguments: object) -> Any:
    return function(*arguments, threads())


def _call_on_cuda(
    function: Callable[..., None], workspace: Callable[..., int] | None, device: torch.device, *arguments: object
) -> None:
    """Call a kernel on the current stream, with what memory it asks for besides; the current device stays as it is."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        if workspace is None:
            return function(*arguments, device.index, stream)
        lent = torch.empty(workspace(*arguments, device.index), dtype=torch.uint8, device=device)
        function(*arguments, lent.data_ptr(), device.index, stream)


def module(device: str) -> ModuleType | None:
    """Return the module of kernels for "cpu" or "cuda", or None where the references in torch are to be used.

    That is so where the module was not built (a warning says it once) and under ``AFTERIMAGE_KERNELS=reference``.

    Raises:
        ImportError: the module is there but does not load.
        UsageError: ``AFTERIMAGE_KERNELS`` or ``AFTERIMAGE_ISA`` holds a value that means nothing here.
    """
    with _lock:  # autograd and loaders call from several threads, and functools.cache may then call twice
        return _module(device)


@cache
def _module(device: str) -> ModuleType | None:
    choice = os.environ.get("AFTERIMAGE_KERNELS", "")
    if choice not in ("", "reference"):
        raise UsageError(f"AFTERIMAGE_KERNELS is {choice!r}, expected 'reference'; unset it for the compiled kernels")
    if choice == "reference":
        return None
    name, builds = _MODULES[device], _BUILDS[device]
    if find_spec(name) is None:
        warnings.warn(f"{name} is not built: references in torch are used, slower; {builds}", stacklevel=2)
        return None
    try:
        found = importlib.import_module(name)
    except ImportError as cause:
        raise ImportError(f"{name} is built but does not load: {cause}; 'pip install .' builds it anew") from cause
    try:
        if device == "cpu":
            found.isa()
    except ValueError as cause:
        raise UsageError(str(cause)) from cause
    return found


def threads() -> int:
    """Return how many threads a kernel may use: ``AFTERIMAGE_NUM_THREADS``, or else as many as torch.

    Raises:
        UsageError: the variable is no whole number from 1 to 4096.
    """
    asked = os.environ.get("AFTERIMAGE_NUM_THREADS", "")
    if not asked:
        return torch.get_num_threads()
    if not asked.isdecimal() or not 1 <= int(asked) <= 4096:
        raise UsageError(f"AFTERIMAGE_NUM_THREADS is {asked!r}, expected 1 to 4096; unset it for torch's number")
    return int(asked)


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` with the strides of `like`, copied only where they differ. Shapes have to be equal."""
    pairs = zip(tensor.stride(), like.stride(), like.shape, strict=True)
    same = like.numel() == 0 or all(mine == other for mine, other, length in pairs if length > 1)
    return tensor if same else like.new_empty_strided(like.shape, like.stride()).copy_(tensor)
