import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import guided_relu, kernels
from afterimage.ops.guided_relu import reference

from . import checks
from .checks import bit_equal, random

RULES = ("gradient", "deconvnet", "guided")
FORWARD = torch.ops.afterimage.guided_relu.default
BACKWARD = torch.ops.afterimage.guided_relu_backward.default


def derived(images: Tensor, grad_output: Tensor, rule: str, upper: float) -> Tensor:
    """The rules from the input, element by element: what is not blocked passes, NaN too."""

    def passes(value: float, gradient: float) -> bool:
        reached = not value <= 0 and (upper == math.inf or not value >= upper)
        return (reached or rule == "deconvnet") and (rule == "gradient" or not gradient <= 0)

    pairs = zip(images.flatten().tolist(), grad_output.flatten().tolist(), strict=True)
    passed = [gradient if passes(value, gradient) else 0.0 for value, gradient in pairs]
    return torch.tensor(passed, dtype=images.dtype).reshape(images.shape)


def plain(images: Tensor, upper: float) -> Tensor:
    return torch.relu(images) if upper == math.inf else torch.nn.functional.hardtanh(images, 0.0, upper)


def case(rule: str, upper: float, inplace: bool) -> checks.Case:
    operators = (
        (FORWARD, lambda images: (images.requires_grad_(), rule, upper)),
        (BACKWARD, lambda images: (torch.ones(images.shape), plain(images, upper), rule, upper)),
    )
    return checks.Case(
        name=f"{rule}{'' if upper == math.inf else f'{upper:g}'}{'_' if inplace else ''}",
        function=lambda images: guided_relu(images.clone() if inplace else images, rule, upper, inplace),
        forward=lambda images: plain(images, upper),
        gradient=lambda images, grad_output: derived(images, grad_output, rule, upper),
        derivative=rule == "gradient",
        exact=True,
        operators=() if inplace else operators,
    )


CASES = [case(rule, upper, inplace=False) for rule in RULES for upper in (math.inf, 6.0)]
CASES += [case("guided", math.inf, inplace=True), case("gradient", 6.0, inplace=True)]


@checks.parametrize(CASES)
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


@pytest.fixture(scope="module")
def activations() -> Tensor:
    return 4 * random(3, 5, 167, 171).float()  # 428,355 elements: thirteen threads


def backward(grad_output: Tensor, output: Tensor, rule: str = "guided", upper: float = math.inf) -> Tensor:
    grad_input: Tensor = BACKWARD(grad_output, output, rule, upper)
    return grad_input


def test_the_lectures_example() -> None:
    layer_input = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]])
    upstream = torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]])
    expected = {
        "gradient": [[-2.0, 0, -1], [6, 0, 0], [0, -1, 3]],
        "deconvnet": [[0.0, 3, 0], [6, 0, 1], [2, 0, 3]],
        "guided": [[0.0, 0, 0], [6, 0, 0], [0, 0, 3]],
    }
    for rule, answer in expected.items():
        for inplace in (False, True):
            leaf = layer_input.clone().requires_grad_()
            (grad_input,) = torch.autograd.grad(guided_relu(leaf * 1, rule, inplace=inplace), leaf, upstream)
            assert grad_input.tolist() == answer


@pytest.mark.parametrize("rule", RULES)
def test_matrix_formula(rule: str) -> None:
    images, grad_output = random(24), random(24, seed=1)
    jacobian = torch.diag((images > 0).double())
    rectified = torch.diag((grad_output > 0).double())
    matrix = {"gradient": jacobian, "deconvnet": rectified, "guided": jacobian @ rectified}[rule]
    assert backward(grad_output.float(), torch.relu(images).float(), rule).equal((matrix @ grad_output).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("upper", [math.inf, 6.0, 0.7])
def test_forward_and_plain_gradient_are_torchs_to_the_bit(dtype: torch.dtype, upper: float) -> None:
    images = checks.special().to(dtype)
    assert bit_equal(guided_relu(images, upper=upper), plain(images, upper))
    assert bit_equal(guided_relu(images.clone(), upper=upper, inplace=True), plain(images.clone(), upper))
    # torch's vectorized hardtanh blocks the gradient at NaN, its ReLU does not; ours never does
    leaf = (images if upper == math.inf else images.nan_to_num()).requires_grad_()
    grad_output = checks.special().to(dtype).flatten().roll(5).reshape(leaf.shape)
    (ours,) = torch.autograd.grad(guided_relu(leaf, "gradient", upper), leaf, grad_output)
    (torchs,) = torch.autograd.grad(plain(leaf, upper), leaf, grad_output)
    assert bit_equal(ours, torchs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("upper", [math.inf, 0.7])  # bfloat16 rounds 0.7 down: saturated outputs lie below it
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_equals_reference_to_the_bit(dtype: torch.dtype, rule: str, upper: float) -> None:
    output = plain(torch.cat([checks.special().flatten(), random(4000)]).to(dtype), upper)
    grad_output = torch.cat([checks.special().flatten().roll(5), random(4000, seed=1)]).to(dtype)
    assert bit_equal(backward(grad_output, output, rule, upper), reference(grad_output, output, rule, upper))
    if rule != "deconvnet" and upper < math.inf:
        assert not backward(torch.ones_like(output), output, rule, upper)[output == output.nan_to_num().max()].any()


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_thread_counts_give_identical_bits(activations: Tensor, threads: int) -> None:
    output, grad_output = torch.relu(activations), random(*activations.shape, seed=1).float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = backward(grad_output, output)
        torch.set_num_threads(threads)
        assert bit_equal(backward(grad_output, output), alone)
    finally:
        torch.set_num_threads(before)
    assert bit_equal(alone, reference(grad_output, output, "guided", math.inf))


def test_calls_from_several_python_threads(activations: Tensor) -> None:
    def run(seed: int) -> bool:
        images = activations.roll(seed).requires_grad_()
        grad_output = random(*images.shape, seed=seed).float()
        (grad_input,) = torch.autograd.grad(guided_relu(images), images, grad_output)
        return bit_equal(grad_input, reference(grad_output, torch.relu(images.detach()), "guided", math.inf))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(12)))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend: str, inplace: bool) -> None:
    def network(images: Tensor) -> Tensor:
        return guided_relu(guided_relu(images * 2, "guided", 6.0, inplace) - 1, "deconvnet", math.inf, inplace) * 4

    images, grad_output = (3 * random(4, 5)).requires_grad_(), random(4, 5, seed=1)
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    assert compiled(images).equal(network(images))
    eager, traced = (torch.autograd.grad(f(images), images, grad_output)[0] for f in (network, compiled))
    assert traced.equal(eager)
    assert 0 < eager.count_nonzero() < images.numel()


def test_in_place_overwrites_and_returns_the_input() -> None:
    images = random(4, 6).requires_grad_()
    whole = images * 1
    part = whole[:, :2]
    assert guided_relu(part, inplace=True) is part
    assert whole.equal(torch.cat([torch.relu(images[:, :2]), images[:, 2:]], 1))
    grad_output = random(4, 6, seed=1)
    (grad_input,) = torch.autograd.grad(whole, images, grad_output)
    assert grad_input[:, 2:].equal(grad_output[:, 2:])
    assert grad_input[:, :2].equal(derived(images.detach()[:, :2], grad_output[:, :2], "guided", math.inf))


def test_in_place_on_a_leaf_and_overwritten_outputs_raise_as_in_torch() -> None:
    with pytest.raises(RuntimeError, match="leaf Variable"):
        guided_relu(random(3).requires_grad_(), inplace=True)
    output = guided_relu(random(3).requires_grad_() * 1, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(output.mul_(2).sum())


@pytest.mark.parametrize("upper", [math.inf, 6.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_saves_what_torch_saves(inplace: bool, upper: float) -> None:
    images = random(4, 6).requires_grad_() * 1
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = guided_relu(images, upper=upper, inplace=inplace)
    assert saved == [(output if upper == math.inf else images).data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_bounded_rectifiers_input_gives_the_same_mask_as_its_output(rule: str, dtype: torch.dtype) -> None:
    for upper in (6.0, 0.7, 0.1, 1e-3):  # bfloat16 rounds all but the first
        ties = torch.tensor([upper, 0.0], dtype=dtype)
        ties = torch.cat([ties, torch.nextafter(ties, ties * 0 + 9), torch.nextafter(ties, ties * 0 - 9)])
        images = torch.cat([checks.special().flatten(), upper * random(500), ties.double()]).to(dtype)
        grad_output = random(len(images), seed=1).to(dtype)
        expected = backward(grad_output, plain(images, upper), rule, upper)
        assert bit_equal(backward(grad_output, images, rule, upper), expected)


@pytest.mark.parametrize("inplace", [False, True])
def test_second_derivatives_are_refused(inplace: bool) -> None:
    images = random(3, 4).requires_grad_()
    (grad_input,) = torch.autograd.grad(
        guided_relu(images * 1, inplace=inplace).square().sum(), images, create_graph=True
    )
    with pytest.raises(UsageError, match="first derivative only"):
        torch.autograd.backward(grad_input.sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2), "guide"), "rule is 'guide', expected one of gradient, deconvnet, guided; nearest: guided"),
        ((torch.ones(2), "guided", 0.0), "upper is 0.0, expected a number above 0"),
        ((torch.ones(2), "guided", math.nan), "upper is nan"),
        ((torch.ones(2, dtype=torch.int64),), "got torch.strided of torch.int64"),
        ((torch.eye(2).to_sparse(),), "got torch.sparse_coo of torch.float32"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        guided_relu(*arguments)


def test_mismatched_tensors_raise_naming_both() -> None:
    with pytest.raises(UsageError, match=r"shape torch.Size\(\[3\]\), expected output's, torch.Size\(\[2\]\)"):
        backward(torch.ones(3), torch.ones(2))
    with pytest.raises(UsageError, match=r"dtype torch.float64, expected output's, torch.float32"):
        backward(torch.ones(2, dtype=torch.float64), torch.ones(2))


class Recorder:
    """Stands for the module of kernels and keeps the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def guided_relu_backward_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.mark.parametrize(
    ("output_format", "grad_format"),
    [
        (a, b)
        for a in (torch.contiguous_format, torch.channels_last)
        for b in (torch.contiguous_format, torch.channels_last)
    ],
)
def test_kernel_takes_dense_tensors_without_copies(
    monkeypatch: pytest.MonkeyPatch, output_format: torch.memory_format, grad_format: torch.memory_format
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    output = torch.ones(2, 3, 5, 7).contiguous(memory_format=output_format)
    grad_output = torch.ones(2, 3, 5, 7).contiguous(memory_format=grad_format)
    grad_input = backward(grad_output, output)
    ((grad_address, output_address, result_address, size, *_),) = recorder.calls
    assert (output_address, result_address, size) == (output.data_ptr(), grad_input.data_ptr(), 210)
    assert (grad_address == grad_output.data_ptr()) == (output_format is grad_format)
    assert grad_input.stride() == output.stride()
