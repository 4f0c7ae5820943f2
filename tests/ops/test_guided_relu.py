import gc
import math
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import guided_relu, kernels
from afterimage.ops.guided_relu import reference, reference_backward

from . import checks
from .checks import bit_equal, random

RULES = ("gradient", "deconvnet", "guided")
FORWARD = torch.ops.afterimage.guided_relu.default
IN_PLACE = torch.ops.afterimage.guided_relu_.default
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


def tracked(images: Tensor) -> Tensor:
    """Without a gradient to come, the op is torch's own."""
    return images if images.requires_grad else images.detach().requires_grad_()


def backward_arguments(images: Tensor, rule: str, upper: float) -> tuple[Any, ...]:
    output, bits = FORWARD(images, rule, upper)
    return torch.ones(images.shape), bits, output.stride(), rule


def case(rule: str, upper: float, inplace: bool) -> checks.Case:
    operators = (
        (FORWARD, lambda images: (images.requires_grad_(), rule, upper)),
        (BACKWARD, lambda images: backward_arguments(images, rule, upper)),
    )

    def function(images: Tensor) -> Tensor:
        images = tracked(images)
        return guided_relu(images.clone() if inplace else images, rule, upper, inplace)

    return checks.Case(
        name=f"{rule}{'' if upper == math.inf else f'{upper:g}'}{'_' if inplace else ''}",
        function=function,
        forward=lambda images: plain(images, upper),
        gradient=lambda images, grad_output: derived(images, grad_output, rule, upper),
        derivative=rule == "gradient",
        exact=True,
        operators=((IN_PLACE, lambda images: (images.clone(), rule, upper)),) if inplace else operators,
    )


CASES = [case(rule, upper, inplace=False) for rule in RULES for upper in (math.inf, 6.0)]
CASES += [case("guided", math.inf, inplace=True), case("gradient", 6.0, inplace=True)]


@checks.parametrize(CASES)
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


@pytest.fixture(scope="module")
def activations() -> Tensor:
    return 4 * random(3, 5, 167, 171).float()  # 428,355 elements: thirteen threads


def backward(grad_output: Tensor, images: Tensor, rule: str = "guided", upper: float = math.inf) -> Tensor:
    output, bits = FORWARD(images, rule, upper)
    grad_input: Tensor = BACKWARD(grad_output, bits, output.stride(), rule)
    return grad_input


def slow_backward(grad_output: Tensor, images: Tensor, rule: str = "guided", upper: float = math.inf) -> Tensor:
    return reference_backward(grad_output, reference(images, rule, upper)[1], rule)


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
    assert backward(grad_output.float(), images.float(), rule).equal((matrix @ grad_output).float())


def settled(tensor: Tensor) -> Tensor:
    """Of bfloat16, torch's vectors give one NaN for all, its remainders the input's."""
    return tensor.detach() if tensor.dtype == torch.float32 else tensor.detach().masked_fill(tensor.isnan(), math.nan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("upper", [math.inf, 6.0, 0.7])
def test_forward_and_plain_gradient_are_torchs_to_the_bit(dtype: torch.dtype, upper: float) -> None:
    images = checks.special().to(dtype)
    expected = settled(plain(images.clone(), upper))
    assert bit_equal(settled(guided_relu(tracked(images), upper=upper)), expected)
    assert bit_equal(settled(guided_relu(tracked(images).clone(), upper=upper, inplace=True)), expected)
    # torch's vectorized hardtanh blocks the gradient at NaN, its ReLU does not; ours never does
    leaf = (images if upper == math.inf else images.nan_to_num()).requires_grad_()
    grad_output = checks.special().to(dtype).flatten().roll(5).reshape(leaf.shape)
    (ours,) = torch.autograd.grad(guided_relu(leaf, "gradient", upper), leaf, grad_output)
    (torchs,) = torch.autograd.grad(plain(leaf, upper), leaf, grad_output)
    assert bit_equal(ours, torchs)


@pytest.mark.parametrize("inplace", [False, True])
def test_without_a_gradient_it_is_torchs(monkeypatch: pytest.MonkeyPatch, inplace: bool) -> None:
    monkeypatch.setattr(kernels, "module", lambda device: Recorder())
    images = random(4, 6).float()
    with torch.no_grad():
        for given in (images.clone(), images.clone().requires_grad_()):
            assert guided_relu(given, "guided", 0.5, inplace).equal(plain(images, 0.5))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("upper", [math.inf, 0.7])  # bfloat16 rounds 0.7 down: saturated outputs lie below it
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_reference_to_the_bit(dtype: torch.dtype, rule: str, upper: float) -> None:
    images = torch.cat([checks.special().flatten(), random(4000)]).to(dtype)
    output, bits = FORWARD(images, rule, upper)
    expected, expected_bits = reference(images, rule, upper)
    assert bit_equal(settled(output), settled(expected))
    assert bits.equal(expected_bits)
    grad_output = torch.cat([checks.special().flatten().roll(5), random(4000, seed=1)]).to(dtype)
    assert bit_equal(backward(grad_output, images, rule, upper), slow_backward(grad_output, images, rule, upper))
    if rule != "deconvnet" and upper < math.inf:
        assert not backward(torch.ones_like(output), images, rule, upper)[output == output.nan_to_num().max()].any()


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_thread_counts_give_identical_bits(activations: Tensor, threads: int) -> None:
    grad_output = random(*activations.shape, seed=1).float()
    before = torch.get_num_threads()

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        return [*FORWARD(activations, "guided", 6.0), backward(grad_output, activations)]

    try:
        alone = run(1)
        assert all(bit_equal(*pair) for pair in zip(run(threads), alone, strict=True))
    finally:
        torch.set_num_threads(before)
    assert alone[1].equal(reference(activations, "guided", 6.0)[1])
    assert bit_equal(alone[2], slow_backward(grad_output, activations))


def test_calls_from_several_python_threads(activations: Tensor) -> None:
    def run(seed: int) -> bool:
        images = activations.roll(seed).requires_grad_()
        grad_output = random(*images.shape, seed=seed).float()
        (grad_input,) = torch.autograd.grad(guided_relu(images), images, grad_output)
        return bit_equal(grad_input, slow_backward(grad_output, images.detach()))

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


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_an_overwritten_output_keeps_its_gradient(rule: str, inplace: bool) -> None:
    """Torch's own ReLU refuses: it needs its output."""
    images, grad_output = random(4, 6).requires_grad_(), random(4, 6, seed=1)
    overwritten = guided_relu(images * 1, rule, inplace=inplace).mul_(-2)
    assert overwritten.equal(-2 * torch.relu(images))
    (grad_input,) = torch.autograd.grad(overwritten, images, grad_output)
    assert grad_input.equal(derived(images.detach(), -2 * grad_output, rule, math.inf))


def test_in_place_on_a_leaf_raises_as_in_torch() -> None:
    with pytest.raises(RuntimeError, match="leaf Variable"):
        guided_relu(random(3).requires_grad_(), inplace=True)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("upper", [math.inf, 6.0])
@pytest.mark.parametrize("inplace", [False, True])
def test_keeps_one_bit_per_element(inplace: bool, upper: float, rule: str) -> None:
    """What is saved stands for a tensor of the output's shape, as checkpoints expect, and takes up one number."""
    images = 4 * random(3, 9).requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = guided_relu(images, rule, upper, inplace)
    assert [(tensor.shape, tensor.dtype) for tensor in saved] == [(output.shape, output.dtype)]
    assert saved[0].untyped_storage().nbytes() == 8
    node, freed = output.grad_fn, weakref.ref(output)
    kept = [value for value in vars(node).values() if isinstance(value, Tensor)]
    assert [(tensor.dtype, len(tensor)) for tensor in kept] == [(torch.uint8, 0 if rule == "deconvnet" else 4)]
    del output, images
    gc.collect()  # a custom op's first call leaves a cycle
    assert freed() is None


def test_the_lowest_bit_is_the_first_element_in_memory() -> None:
    images = -torch.ones(1, 2, 3, 3)
    images[0, 1, 0, 0] = images[0, 0, 2, 2] = 1
    assert FORWARD(images, "guided", math.inf)[1].tolist() == [0b0000_0000, 0b0000_0011, 0b00]
    last = images.contiguous(memory_format=torch.channels_last)
    assert FORWARD(last, "guided", math.inf)[1].tolist() == [0b0000_0010, 0b0000_0000, 0b01]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bounded_rectifiers_input_gives_the_same_bits_as_its_output(dtype: torch.dtype) -> None:
    for upper in (6.0, 0.7, 0.1, 1e-3):  # bfloat16 rounds all but the first
        ties = torch.tensor([upper, 0.0], dtype=dtype)
        ties = torch.cat([ties, torch.nextafter(ties, ties * 0 + 9), torch.nextafter(ties, ties * 0 - 9)])
        images = torch.cat([checks.special().flatten(), upper * random(500), ties.double()]).to(dtype)
        output, bits = FORWARD(images, "guided", upper)
        assert FORWARD(output, "guided", upper)[1].equal(bits)
        assert bits.any()


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


def test_mismatched_bits_raise_naming_both() -> None:
    def call(count: int, rule: str, dtype: torch.dtype = torch.uint8) -> None:
        BACKWARD(torch.ones(9), torch.zeros(count, dtype=dtype), (1,), rule)

    with pytest.raises(
        UsageError, match=r"bits has shape torch.Size\(\[1\]\), expected torch.Size\(\[2\]\): rule 'gui"
    ):
        call(1, "guided")
    with pytest.raises(UsageError, match=r"shape torch.Size\(\[2\]\), expected torch.Size\(\[0\]\): rule 'deconvnet'"):
        call(2, "deconvnet")
    with pytest.raises(UsageError, match=r"dtype torch.bool, expected torch.uint8: .* a gradient of \(9,\)"):
        call(2, "guided", torch.bool)


class Recorder:
    """Stands for the module of kernels and keeps the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def guided_relu_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def guided_relu_backward_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)


FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize(("output_format", "grad_format"), [(a, b) for a in FORMATS for b in FORMATS])
def test_kernels_take_dense_tensors_without_copies(
    monkeypatch: pytest.MonkeyPatch, output_format: torch.memory_format, grad_format: torch.memory_format
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    images = torch.ones(2, 3, 5, 7).contiguous(memory_format=output_format)
    grad_output = torch.ones(2, 3, 5, 7).contiguous(memory_format=grad_format)
    output, bits = FORWARD(images, "guided", 6.0)
    grad_input = BACKWARD(grad_output, bits, output.stride(), "guided")
    forward, (grad_address, *others) = recorder.calls
    threads = kernels.threads()
    assert forward == (images.data_ptr(), output.data_ptr(), bits.data_ptr(), 210, 6.0, threads)
    assert others == [bits.data_ptr(), grad_input.data_ptr(), 210, True, True, threads]
    assert (grad_address == grad_output.data_ptr()) == (output_format is grad_format)
    assert grad_input.stride() == output.stride() == images.stride()
    in_place = IN_PLACE(images, "guided", 6.0)
    assert recorder.calls[-1] == (images.data_ptr(), images.data_ptr(), in_place.data_ptr(), 210, 6.0, threads)
