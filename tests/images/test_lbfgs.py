"""L-BFGS follows torch's, image by image, and each image goes its own way."""

import pytest
import torch
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


def ours(functions, starts: Tensor, steps: int) -> list[Tensor]:
    """Return the iterates `(N, …)` after each step of the slowest; one that is over stays."""
    run = LBFGS(history=10, change_tolerance=1e-9).begin(starts)
    trace = [[start] for start in starts]
    while len(run.rows):
        points = run.points.detach().requires_grad_()
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


@pytest.mark.parametrize("given", [{"rate": 0}, {"history": 0}, {"trials": 0}])
def test_refuses_what_cannot_be(given):
    with pytest.raises(UsageError, match="above 0"):
        LBFGS(**given)
