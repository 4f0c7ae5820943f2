"""What every op asks of its arguments, before it says what it asks of its own."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import UsageError

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_tensor(op: str, name: str, value: object) -> None:
    """Raise TypeError where an argument is no tensor, UsageError where it carries a forward-mode tangent."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor; torch.as_tensor makes one")
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if forward_ad.unpack_dual(value).tangent is not None:
        raise UsageError(f"{op} has no forward-mode derivative, {name} carries a tangent; use reverse mode")


def is_dense_float(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, of float64, float32, bfloat16 or float16."""
    return tensor.layout is torch.strided and tensor.dtype in _FLOATS


def described(tensor: Tensor) -> str:
    """Return a tensor's type and shape, and its layout where it is not dense, for messages."""
    layout = "" if tensor.layout is torch.strided else f", {tensor.layout}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}{layout}"
