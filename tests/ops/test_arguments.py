"""What all ops refuse alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from afterimage.errors import UsageError
from afterimage.ops import gram, guided_relu, occlude, style_loss, total_variation

OPS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "gram": (gram, (1, 2, 3, 4)),
    "style_loss": (lambda features: style_loss(features, torch.zeros(2, 2)), (1, 2, 3, 4)),
    "total_variation": (total_variation, (1, 2, 3, 4)),
    "guided_relu": (guided_relu, (5,)),
    "occlude": (lambda image: occlude(image, torch.zeros(1, 4, dtype=torch.int64), 0.5), (2, 3, 4)),
}
each_op = pytest.mark.parametrize("name", OPS)


@each_op
def test_what_is_no_tensor_is_refused_by_name(name: str) -> None:
    call, shape = OPS[name]
    argument = {"guided_relu": "input", "occlude": "image", "total_variation": "images"}.get(name, "features")
    for value, came in ((torch.ones(shape).numpy(), "ndarray"), ([1.0], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"^{argument} is a {came}, expected a tensor"):
            call(value)


@each_op
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_types_that_are_not_computed_with_are_refused(name: str, dtype: torch.dtype) -> None:
    call, shape = OPS[name]
    with pytest.raises(UsageError, match="expected a dense floating-point tensor"):
        call(torch.ones(shape).to(dtype))


@each_op
def test_forward_mode_is_refused(name: str) -> None:
    call, shape = OPS[name]
    primal = torch.rand(shape)
    with forward_ad.dual_level():
        dual: Tensor = forward_ad.make_dual(primal, torch.ones(shape))
        with pytest.raises(UsageError, match=f"{name} has no forward-mode derivative|gram has no forward-mode"):
            call(dual)
        call(primal)
