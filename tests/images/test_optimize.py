"""The loop: known answers, images that do not touch each other, ends, memory."""

import math

import pytest
import torch
from torch import Tensor, nn

from afterimage import UsageError
from afterimage.images import (
    LBFGS,
    Adam,
    Ascent,
    Fourier,
    amplify,
    channel,
    distance,
    layer,
    logit,
    maximize,
    memory,
    minimize,
    objective,
    total_variation,
)
from afterimage.images.memory import predicted
from afterimage.images.projections import clip, sphere
from afterimage.images.transforms import Jitter
from afterimage.models.layers import activations
from tests.networks import live, mixed, pictures


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, side: int = 4, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, 3 * side * side, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def energy() -> object:
    return objective(name="energy")(lambda seen: seen.images.square().flatten(1).sum(1))


def test_the_best_image_of_a_linear_score_with_l2_is_the_weight_row():
    model, target = Linear(), torch.tensor([0, 2])
    decay = 40.0  # large, so that the optimum w / (2 · decay) lies within [−0.1, 0.1] of grey
    around = objective(name="around grey")(lambda seen: (seen.images - 0.5).square().flatten(1).sum(1))
    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    for optimizer, steps in ((Ascent(1 / (4 * decay)), 60), (LBFGS(), 20)):
        result = maximize(model, logit(target) - decay * around, start, steps=steps, optimizer=optimizer)
        expected = 0.5 + model.weight[target].view(2, 3, 4, 4) / (2 * decay)
        torch.testing.assert_close(result.images, expected.detach(), rtol=0, atol=1e-7)  # its gradient tolerance


def test_within_a_ball_it_is_the_weight_row_over_its_norm():
    model, target = Linear(), torch.tensor([1])
    start = torch.full((1, 3, 4, 4), 0.01, dtype=torch.float64)
    row = model.weight[1].detach().abs()
    model.weight.data[1] = row  # so that the answer lies in [0, 1]
    result = maximize(model, logit(target), start, steps=50, optimizer=Ascent(0.5), projections=[sphere()])
    torch.testing.assert_close(result.images.flatten(), row / row.norm(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "parameterization"),
    [
        (optimizer, parameterization)
        for optimizer in (Adam(), Ascent(0.01, "l1"), Ascent(0.5, "l2"), Ascent(0.01, "sign"), LBFGS())
        for parameterization in (None, Fourier())
    ]
    + [(LBFGS(bounds=(0.0, 1.0)), None)],
)
def test_a_batch_equals_its_singles(optimizer, parameterization):
    model, start = mixed().double(), pictures(4, 16).double()
    given = {} if isinstance(optimizer, LBFGS) else {"transforms": [Jitter(3)]}
    given |= {"optimizer": optimizer, "parameterization": parameterization, "steps": 8}
    target, seeds = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 9, 2, 7])
    together = minimize(model, 1e-3 * total_variation() - logit(target), start, seeds=seeds, **given)
    divided = minimize(model, 1e-3 * total_variation() - logit(target), start, seeds=seeds, batch=3, **given)
    for row in range(4):
        own = 1e-3 * total_variation() - logit(target[row : row + 1])
        alone = minimize(model, own, start[row : row + 1], seeds=seeds[row : row + 1], **given)
        for one, other in ((together, alone), (divided, alone)):
            # float64: sums in another order
            torch.testing.assert_close(one.images[row], other.images[0], rtol=0, atol=1e-9)
            torch.testing.assert_close(one.losses[row], other.losses[0], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(one.loss[row], other.loss[0], rtol=1e-9, atol=1e-12)


def test_in_float32_the_first_step_and_the_last_loss_agree_with_the_solo_run():
    model, start = live("resnet18"), pictures(3, 96)
    term = lambda: channel("layer2", 5) - 1e-4 * total_variation()  # noqa: E731
    together = maximize(model, term(), start, steps=12)
    alone = maximize(model, term(), start[1:2], steps=12)
    torch.testing.assert_close(together.losses[1, 1], alone.losses[0, 1], rtol=1e-4, atol=0)
    torch.testing.assert_close(together.loss[1], alone.loss[0], rtol=2e-2, atol=0)  # chaotic in float32


def test_lbfgs_ends_no_worse_than_torchs_on_a_network():
    model, start = mixed().double(), pictures(1, 16).double()
    with torch.no_grad():
        aim = activations(model, pictures(1, 16, seed=4).double(), ["convolutions.3"])["convolutions.3"]
    ours = minimize(model, distance("convolutions.3", aim), start, steps=41, optimizer=LBFGS())
    point = start.clone().requires_grad_()
    theirs = torch.optim.LBFGS([point], max_iter=40, max_eval=10_000, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        theirs.zero_grad()
        found = activations(model, point, ["convolutions.3"])["convolutions.3"]
        loss = (found - aim).square().sum() / aim.square().sum()
        loss.backward()
        return loss

    theirs.step(closure)
    assert float(ours.losses[0].nan_to_num(math.inf).min()) <= 1.01 * float(closure())


def poisoned(row: int, after: int) -> object:
    """An objective that is NaN for one image from a certain evaluation on."""
    calls = 0

    def value(seen) -> Tensor:
        nonlocal calls
        calls += 1
        wrong = (seen.rows == row) & (calls > after)
        return seen.images.square().flatten(1).sum(1) * torch.where(wrong, torch.nan, 1.0)

    return objective(name="poisoned")(value)


@pytest.mark.parametrize("optimizer", [Adam(), LBFGS()])
def test_an_image_that_diverges_ends_with_its_last_finite_picture(optimizer):
    start = pictures(3, 8)
    result = minimize(Linear(8), poisoned(1, after=3), start, steps=6, optimizer=optimizer)
    assert result.diverged.tolist() == [False, True, False]
    assert result.images.isfinite().all()
    assert result.losses[1].isfinite().sum() <= 3 < 6
    assert (result.images[1] - start[1]).abs().max() > 0  # it had moved
    clean = minimize(Linear(8), energy(), start, steps=6, optimizer=optimizer)
    torch.testing.assert_close(result.images[[0, 2]], clean.images[[0, 2]], rtol=0, atol=1e-6)


def test_what_diverges_with_its_last_step_goes_back_before_it():
    start = pictures(2, 8) / 2 + 0.3  # pixels stay within [0, 1] for some steps: no loss changes by clipping
    result = minimize(Linear(8), poisoned(0, after=4), start, steps=4)
    before = minimize(Linear(8), energy(), start, steps=3)
    assert result.diverged.tolist() == [True, False]
    torch.testing.assert_close(result.images[0], before.images[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(result.loss[0], before.loss[0], rtol=1e-5, atol=0)


def test_images_end_on_their_own_and_leave_the_batch():
    start, sizes = torch.stack([torch.full((3, 4, 4), value) for value in (0.9, 0.5, 0.2)]), []

    def value(seen) -> Tensor:
        sizes.append(len(seen.rows))
        return seen.images.flatten(1).mean(1)

    low = objective(name="below 0.25")(lambda seen: 0.25 - seen.images.flatten(1).mean(1))
    result = minimize(
        Linear(), objective(name="mean")(value), start, steps=20, optimizer=Ascent(0.1, "sign"), until=low
    )
    assert result.steps.tolist() == [7, 3, 0]
    assert sizes[:2] == [2 + 1, 2]
    torch.testing.assert_close(result.images.flatten(1).mean(1), torch.tensor([0.2, 0.2, 0.2]), rtol=0, atol=1e-6)
    assert result.losses.isfinite().sum(1).tolist() == [8, 4, 1]


def test_an_objective_that_no_longer_improves_ends_an_image():
    flat = objective(name="flat")(lambda seen: 0 * seen.images.flatten(1).sum(1) + 1)
    result = minimize(Linear(), flat, pictures(2, 4).double(), steps=50, tolerance=1e-3, patience=5)
    assert result.steps.tolist() == [6, 6]


def test_losses_progress_and_snapshots_tell_the_course():
    told, seen, start = [], [], pictures(4, 8)
    result = minimize(
        Linear(8), energy(), start, steps=6, batch=3, snapshot_every=2,
        progress=lambda done, total: told.append((done, total)), watch=seen.append,
    )  # fmt: skip
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert result.losses.diff(dim=1).lt(0).all()
    torch.testing.assert_close(result.losses[:, 0], start.square().flatten(1).sum(1))
    torch.testing.assert_close(result.loss, result.images.square().flatten(1).sum(1))
    assert len(result.snapshots) == 3
    assert torch.equal(result.snapshots[2], result.images)
    assert torch.equal(seen[0].rows, torch.arange(3))
    assert result.steps.tolist() == [6] * 4


def test_maximizing_tells_the_objectives_own_values():
    seen = []
    result = maximize(Linear(), energy(), torch.full((1, 3, 4, 4), 0.5), steps=3, watch=seen.append)
    assert result.loss[0] > result.losses[0, 0] == 12
    assert seen[0].losses[0] == 12


def test_skipped_images_stay_and_an_empty_batch_is_one():
    start = pictures(3, 8)
    skip = torch.tensor([False, True, False])
    result = minimize(Linear(8), energy(), start, steps=2, skip=skip)
    assert torch.equal(result.images[1], start[1])
    assert result.steps.tolist() == [2, 0, 2]
    assert minimize(Linear(8), energy(), start[:0], steps=2).images.shape == (0, 3, 8, 8)


def test_the_algebra_adds_and_scales():
    model, images = mixed(), pictures(2, 16)
    both = 2 * amplify("convolutions.1") - layer("convolutions.3") * torch.tensor([1.0, 3.0]) + 0.5
    assert both.layers == {"convolutions.1", "convolutions.3"}
    result = minimize(model, both, images, steps=1)
    with torch.no_grad():
        found = activations(model, images, ["convolutions.1", "convolutions.3"])
    first = found["convolutions.1"].square().flatten(1).mean(1)
    strongest = found["convolutions.3"].mean((2, 3)).max(1).values
    torch.testing.assert_close(result.losses[:, 0], first - strongest * torch.tensor([1.0, 3.0]) + 0.5)


def test_a_bfloat16_network_gives_float32_losses_and_images():
    model = live("resnet18").to(torch.bfloat16)
    try:
        wrapped = nn.Sequential(Cast(), model)
        result = maximize(wrapped, channel("1.layer1", 3), pictures(2, 64), steps=3)
    finally:
        model.float()
        live.cache_clear()
    assert (result.losses.dtype, result.images.dtype) == (torch.float32, torch.float32)
    assert result.loss.gt(result.losses[:, 0]).all()


class Cast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.bfloat16)


def test_predicted_memory_covers_what_autograd_keeps():
    model, image = live("resnet18"), pictures(1, 128).requires_grad_()
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = activations(model, image, ["layer3"])
    counted = sum(size for address, size in kept.items() if address not in weights)
    assert alive
    # beside what is kept there are gradients on their way back, and what L-BFGS remembers of the image
    remembered = memory.PICTURES * image.nbytes
    assert counted < predicted(model, ["layer3"], image) - remembered < 3 * counted


def test_pictures_too_large_for_memory_are_refused_before_work(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 10_000_000)
    with pytest.raises(UsageError, match=r"expected what fits into 0\.0 GiB, got .* for one picture of 512 × 512"):
        maximize(live("resnet18"), channel("layer2", 5), torch.rand(1, 3, 512, 512), steps=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number above 0, got 0"),
        ({"steps": 1, "batch": 0}, "batch: expected"),
        ({"steps": 1, "optimizer": LBFGS(), "transforms": [Jitter(2)]}, "L-BFGS wants the same smooth function"),
        ({"steps": 1, "optimizer": LBFGS(), "projections": [clip()]}, "L-BFGS wants the same smooth function"),
        ({"steps": 1, "parameterization": Fourier(), "projections": [clip()]}, "projections act on pixels"),
        ({"steps": 1, "parameterization": Fourier(), "optimizer": LBFGS(bounds=(0, 1))}, "bounds act on pixels"),
        ({"steps": 1, "seeds": torch.tensor([1])}, "seeds: expected 2 whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        minimize(Linear(), energy(), pictures(2, 4), **given)
    with pytest.raises(UsageError, match="expected finite images"):
        minimize(Linear(), energy(), torch.full((1, 3, 4, 4), torch.nan), steps=1)
    with pytest.raises(UsageError, match="depends on the images"):
        minimize(Linear(), objective(name="constant")(lambda seen: torch.zeros(2)), pictures(2, 4), steps=1)


@pytest.mark.parametrize("optimizer", [Adam(0.1), LBFGS()])
def test_where_the_mask_is_0_pixels_stay(optimizer):
    start, masks = pictures(2, 8), torch.zeros(2, 1, 8, 8)
    masks[0, ..., :4], masks[1, :, 2:] = 1, 0.5
    made = minimize(Linear(8), energy(), start, steps=3, optimizer=optimizer, mask=masks)
    assert torch.equal(made.images == start, (masks == 0).expand_as(start) | (start == 0))
    with pytest.raises(UsageError, match=r"mask: expected \(N or 1, 1, H, W\)"):
        minimize(Linear(8), energy(), start, steps=1, mask=masks[:, :, :4])
    with pytest.raises(UsageError, match="a mask acts on pixels"):
        minimize(Linear(8), energy(), start, steps=1, mask=masks, parameterization=Fourier())
