"""The six checks that every op passes, driven by a table of cases.

forward and gradient against the reference in float64, over awkward inputs · gradcheck where the backward is the
derivative · torch.library.opcheck · twice bit-equal. A test module lists its cases and calls `parametrize`. On a GPU
the same rows run again, marked `gpu`, in float16 too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

# Relative and absolute error against float64: a few hundred roundings of each type's unit.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
DTYPES = {"cpu": (torch.float64, torch.float32, torch.bfloat16), "cuda": tuple(TOLERANCES)}


@dataclass(frozen=True)
class Case:
    """One op with one set of options, and what it has to equal."""

    name: str
    function: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], Tensor]  # the reference
    gradient: Callable[[Tensor, Tensor], Tensor]  # the reference's (input, grad_output) -> grad_input
    derivative: bool  # whether `gradient` is the derivative of `forward`
    exact: bool = False  # no rounding: every dtype agrees with float64 to the last bit
    operators: tuple[tuple[Any, Callable[[Tensor], tuple[Any, ...]]], ...] = field(default=(), repr=False)
    rank: int | None = None  # the number of dimensions that the inputs must have; None: any
    sums: bool = False  # results add up so many terms that those of half types are float32

    def __str__(self) -> str:
        return self.name

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0 if self.exact else TOLERANCES[dtype]

    def result(self, dtype: torch.dtype) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32) if self.sums else dtype


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def special() -> Tensor:
    values = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 1e30, -1e30, 1.0, -1.0, 6.0, 7.0]
    return torch.tensor(values, dtype=torch.float64).repeat(11)[:141].reshape(1, 3, 47)


INPUTS: dict[str, Callable[[], Tensor]] = {
    "scalar": lambda: random(),
    "empty": lambda: random(0, 3, 4, 4),
    "one_pixel": lambda: random(1, 1, 1, 1),
    "odd": lambda: random(2, 3, 5, 7),
    "strided": lambda: random(4, 6, 10, 14)[1:, ::2, :, 1::3],
    "transposed": lambda: random(5, 9).t(),
    "channels_last": lambda: random(2, 3, 9, 5).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: random(2, 3, 1, 5).expand(2, 3, 4, 5),
    "huge": lambda: random(1, 3, 211, 213),  # 134,829 elements: several threads, and a tail
    "special": special,
}


def cast(tensor: Tensor, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Convert to `dtype` on `device`, keeping the strides, also of views with gaps."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return whole.to(device, dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def gradients_of(output: Tensor) -> Iterator[Tensor]:
    """Yield upstream gradients: contiguous, in the output's own layout, and expanded from one number."""
    contiguous = random(*output.shape, seed=1).to(output)
    yield contiguous
    yield torch.empty_like(output).copy_(contiguous)
    yield torch.ones((), dtype=output.dtype, device=output.device).expand(output.shape)
    if output.isnan().any():  # rolled, so that the special values meet others
        yield special().to(output).flatten().roll(5).reshape(output.shape)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare with a result in float64; where terms cancel, the largest value is the measure of the error."""
    largest = float(expected.nan_to_num(posinf=0, neginf=0).abs().max()) if tolerance and expected.numel() else 0.0
    torch.testing.assert_close(
        actual.double(), expected, rtol=tolerance, atol=tolerance * max(1.0, largest), equal_nan=True
    )


def check_forward(case: Case, make: Callable[[], Tensor], dtype: torch.dtype, device: str) -> None:
    images = cast(make(), dtype, device)
    output = case.function(images)
    assert (output.dtype, output.device) == (case.result(dtype), images.device)
    assert output.shape == case.forward(images.double()).shape
    assert_near(output, case.forward(images.double()), case.tolerance(dtype))


def check_gradient(case: Case, make: Callable[[], Tensor], dtype: torch.dtype, device: str) -> None:
    images = cast(make(), dtype, device).requires_grad_()
    for grad_output in gradients_of(case.function(images).detach()):
        (grad_input,) = torch.autograd.grad(case.function(images), images, grad_output)
        assert (grad_input.dtype, grad_input.shape) == (dtype, images.shape)
        expected = case.gradient(images.detach().double(), grad_output.double())
        assert_near(grad_input, expected, case.tolerance(dtype))


def check_derivative(case: Case, device: str) -> None:
    images = random(2, 3, 5, 4).to(device).requires_grad_()
    assert torch.autograd.gradcheck(case.function, (images,))


def check_operators(case: Case, device: str) -> None:
    for operator, arguments in case.operators:
        for name in ("empty", "odd", "strided", "channels_last"):  # half a second each
            torch.library.opcheck(operator, arguments(cast(INPUTS[name](), torch.float32, device)))


def check_twice(case: Case, dtype: torch.dtype, device: str) -> None:
    images = cast(INPUTS["huge"](), dtype, device).requires_grad_()
    output = case.function(images)
    grad_output = random(*output.shape, seed=1).to(output)

    def run() -> list[Tensor]:
        output = case.function(images)
        return [output.detach(), *torch.autograd.grad(output, images, grad_output)]

    assert all(bit_equal(first, second) for first, second in zip(run(), run(), strict=True))


def bit_equal(first: Tensor, second: Tensor) -> bool:
    """Compare the bytes: NaN equals NaN, -0.0 differs from 0.0."""
    return bits(first).equal(bits(second)) and first.dtype == second.dtype and first.shape == second.shape


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def parametrize(cases: list[Case]) -> pytest.MarkDecorator:
    """Decorate a test that takes `check` and calls it: one test per case, check, device, dtype and input."""
    assert any(case.operators for case in cases), "no case names the operators for opcheck"
    return pytest.mark.parametrize("check", [row for case in cases for device in DTYPES for row in _rows(case, device)])


def _rows(case: Case, device: str) -> Iterator[Any]:
    marks = pytest.mark.gpu if device == "cuda" else ()

    def row(check: Callable[..., None], *arguments: Any, name: str) -> Any:
        where = "-cuda" if device == "cuda" else ""
        return pytest.param(partial(check, case, *arguments, device), id=f"{case}-{name}{where}", marks=marks)

    makers = {name: make for name, make in INPUTS.items() if case.rank in (None, make().ndim)}
    for dtype in DTYPES[device]:
        short = str(dtype).removeprefix("torch.")
        for name, make in makers.items():
            yield row(check_forward, make, dtype, name=f"forward-{short}-{name}")
            yield row(check_gradient, make, dtype, name=f"gradient-{short}-{name}")
        yield row(check_twice, dtype, name=f"twice-{short}")
    if case.derivative:
        yield row(check_derivative, name="gradcheck")
    if case.operators:
        yield row(check_operators, name="opcheck")
