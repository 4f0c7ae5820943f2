"""L-BFGS follows torch's, image by image, and each image goes its own way."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from afterimage import UsageError
from afterimage.images import LBFGS


def quadratic(point: Tensor) -> Tensor:
    scales = torch.logspace(0, 3, point.numel(), dtype=point.dtype)
    return (scales * (point.flatten() - 1).square()).sum() / 2


def rosenbrock(point: Tensor) -> Tensor:
    flat = point.flatten()
    return (100 * (flat[1:] - flat[:-1].square()).square() + (1 - flat[:-1]).square()).sum()


def torchs(function, start: Tensor, steps: int) -> list[Tensor]:
    """Return the iterates of torch.optim.LBFGS, its steps taken one by one."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=1, max_eval=1000, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = function(point)
        loss.backward()
        return loss

    iterates = []
    for _ in range(steps):
        optimizer.step(closure)
        iterates.append(point.detach().clone())
    return iterates


def ours(functions, starts: Tensor, steps: int, **options) -> list[Tensor]:
    """Return the iterates `(N, …)` after each step of the slowest; one that is over stays."""
    run = LBFGS(history=10, **options).begin(starts)
    low, high = options.get("bounds", (-torch.inf, torch.inf))
    trace = [[start] for start in starts]
    while len(run.rows):
        points = run.points.detach().requires_grad_()
        assert bool(((points >= low) & (points <= high)).all())
        values = torch.stack([functions[row](point) for row, point in zip(run.rows.tolist(), points, strict=True)])
        (gradients,) = torch.autograd.grad(values.sum(), points)
        new, _ = run.tell(values.detach(), gradients)
        for row, iterate, is_new in zip(run.rows.tolist(), run.iterates, new.tolist(), strict=True):
            if is_new:
                trace[row].append(iterate)
        run.drop(run.over | (run.steps >= steps))
    return [torch.stack(course[2:]) for course in trace]


@pytest.mark.parametrize("function", [quadratic, rosenbrock])
def test_iterates_are_those_of_torch(function):
    start = torch.linspace(-1.2, 1.5, 12, dtype=torch.float64).view(3, 2, 2)
    (found,) = ours([function], start[None], 25)
    expected = torch.stack(torchs(function, start, len(found)))
    # float64: the same steps, other order of rounding
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert len(found) > 10


def test_each_image_goes_its_own_way():
    starts = torch.linspace(-1.5, 2, 36, dtype=torch.float64).view(3, 3, 2, 2)
    functions = [rosenbrock, quadratic, rosenbrock]
    together = ours(functions, starts, 15)
    for row in range(3):
        (alone,) = ours([functions[row]], starts[row : row + 1], 15)
        assert torch.equal(together[row], alone)


def test_converges():
    (found,) = ours([rosenbrock], torch.full((1, 1, 1, 6), -0.5, dtype=torch.float64), 200)
    torch.testing.assert_close(found[-1], torch.ones_like(found[-1]), rtol=0, atol=1e-5)  # by its gradient tolerance


def bowl(seed: int):
    """Return a quadratic in 60 dimensions, of condition 1,000, whose least lies outside [0, 1] for half of them."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))
    least = torch.rand(60, generator=generator, dtype=torch.float64) * 2 - 0.5
    curved = turn @ torch.diag(torch.logspace(0, 3, 60, dtype=torch.float64)) @ turn.T
    return lambda point: (point.flatten() - least) @ curved @ (point.flatten() - least) / 2


@pytest.mark.parametrize("function", [bowl(0), bowl(1), rosenbrock])
def test_within_bounds_it_ends_where_l_bfgs_b_does(function):
    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(point).requires_grad_()
        loss = function(leaf)
        loss.backward()
        return float(loss.detach()), leaf.grad.numpy()

    bounds = (0.0, 0.9)  # Rosenbrock's least, at 1, lies outside
    start = torch.linspace(-0.5, 1.2, 60, dtype=torch.float64).view(1, 3, 4, 5)
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxfun": 20_000, "maxiter": 5_000}
    known = minimize(value, start.flatten().clamp(*bounds).numpy(), jac=True, bounds=[bounds] * 60, options=options)
    (found,) = ours([function], start, 2_000, bounds=bounds)
    ends = torch.from_numpy(known.x)
    held = (ends == bounds[0]) | (ends == bounds[1])
    assert held.sum() >= 1
    # gradients of 1e-7 over the least curvature, which is 1 and for Rosenbrock's function some 0.1
    torch.testing.assert_close(found[-1].flatten(), ends, rtol=0, atol=1e-5)
    assert torch.equal(found[-1].flatten()[held], ends[held])


def test_within_bounds_each_image_goes_its_own_way():
    starts = torch.linspace(-0.5, 1.5, 180, dtype=torch.float64).view(3, 3, 4, 5)
    functions = [bowl(2), rosenbrock, bowl(3)]
    together = ours(functions, starts, 15, bounds=(0.0, 1.0))
    for row in range(3):
        (alone,) = ours([functions[row]], starts[row : row + 1], 15, bounds=(0.0, 1.0))
        assert torch.equal(together[row], alone)


@pytest.mark.parametrize("given", [{"rate": 0}, {"history": 0}, {"trials": 0}])
def test_refuses_what_cannot_be(given):
    with pytest.raises(UsageError, match="above 0"):
        LBFGS(**given)
    with pytest.raises(UsageError, match="the lower one first"):
        LBFGS(bounds=(1.0, 0.0))
