"""Roundings against loops over pixels, and in the one loop: what is seen and returned is what a file holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from afterimage import UsageError
from afterimage.images import LBFGS, Ascent, Fourier, l2, minimize, objective
from afterimage.images.amount import Amount
from afterimage.images.projections import Step, ball
from afterimage.images.rounding import levels, nearest, no_farther
from tests.networks import mixed, pictures


def grid(*values: float) -> Tensor:
    """Return one image with these levels, `(1, 3, 1, len / 3)`."""
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, -1) / 255


def seen_levels(images: Tensor) -> Tensor:
    """Return levels as whole numbers, after making sure that images are what 8 bits hold, bit by bit."""
    whole = (images * 255).round().to(torch.uint8)
    assert torch.equal(whole.to(images.dtype) / 255, images)
    return whole.to(torch.int64)


def test_levels_are_the_nearest_multiples():
    found = levels(grid(-3, 0.4, 0.6, 12.49, 254.6, 300))
    assert (found * 255).round().flatten().tolist() == [0, 0, 1, 12, 255, 255]


def test_the_distance_is_used_up_by_what_is_nearest_to_its_next_level():
    # 2.9² + 0.8² + 0.7² + 0.2² = 9.58; cut off it is 2² = 4; room for 3² (+5), none left for the others
    rounded = no_farther(grid(10, 20, 30, 40, 50, 60))
    assert seen_levels(rounded(grid(12.9, 20.8, 29.3, 40.2, 50, 60), torch.tensor([0]))).flatten().tolist() == [
        13, 20, 30, 40, 50, 60,
    ]  # fmt: skip
    # without the first: 1.17, room for one; the negative one comes first
    assert seen_levels(rounded(grid(10, 20.7, 29.2, 40.2, 50, 60), torch.tensor([0]))).flatten().tolist() == [
        10, 20, 29, 40, 50, 60,
    ]  # fmt: skip


def slow(image: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return levels of one image by a loop over its values."""
    away = np.clip(image, 0, 1) * 255 - center
    whole = np.floor(np.abs(away))
    room = (away**2).sum() - (whole**2).sum()
    for place in np.argsort(whole - np.abs(away), kind="stable"):
        cost = 2 * whole[place] + 1
        if cost > room or whole[place] == abs(away[place]):
            break
        room -= cost
        whole[place] += 1
    return center + np.sign(away) * whole


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 1, 5, 80]), st.integers(1, 5))
def test_no_farther_equals_a_loop_over_values(seed, spread, side):
    generator = np.random.default_rng(seed)
    center = generator.integers(0, 256, (2, 3, side, side)).astype(float)
    images = (center + generator.normal(0, spread, center.shape)) / 255
    found = no_farther(torch.from_numpy(center / 255))(torch.from_numpy(images), torch.arange(2))
    expected = [slow(one.ravel(), middle.ravel()) for one, middle in zip(images, center, strict=True)]
    assert np.array_equal(seen_levels(found).flatten(1).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0.0, 3.0), st.sampled_from([torch.float32, torch.float64])
)
def test_rounding_does_not_leave_the_ball(seed, most, eps, dtype):
    generator = torch.Generator().manual_seed(seed)
    center = torch.randint(256, (2, 3, 9, 7), generator=generator).to(dtype) / 255
    images = center + torch.randn(center.shape, generator=generator).to(dtype) / 10
    rows, middle = torch.arange(2), seen_levels(center)

    def projected(eps: float, norm: float) -> Tensor:
        return ball(center, eps, norm)(Step(images, images, rows, 1)).clamp(0, 1)

    near = seen_levels(nearest()(projected(most / 255, math.inf), rows))
    assert int((near - middle).abs().max()) <= most
    lengths = (seen_levels(no_farther(center)(projected(eps, 2), rows)) - middle).flatten(1).square().sum(1)
    # whole numbers, compared with a bound that float32 knows to seven digits
    assert bool((lengths.double() <= (eps * 255) ** 2 * (1 + 1e-6)).all())


def test_a_run_returns_levels_and_takes_steps_shorter_than_one():
    start = torch.full((2, 3, 4, 4), 10 / 255)
    seen = []

    def value(step):
        seen.append(step.images.detach().clone())
        return step.images.flatten(1).sum(1)

    found = minimize(
        mixed(), objective()(value), start, steps=4, optimizer=Ascent(0.3 / 255, "sign"), rounding=nearest(),
        snapshot_every=2,
    )  # fmt: skip
    assert [int(seen_levels(one).max()) for one in seen] == [10, 10, 9, 9, 9]  # 9.7, 9.4, 9.1, 8.8
    assert seen_levels(found.images).unique().tolist() == [9]
    assert [seen_levels(one).unique().tolist() for one in found.snapshots] == [[9], [9]]
    torch.testing.assert_close(found.loss, torch.full((2,), 48 * 9 / 255))


def test_any_parameterization_can_be_rounded():
    found = minimize(mixed(), l2(), pictures(2, 12), steps=3, parameterization=Fourier(), rounding=nearest())
    assert len(seen_levels(found.images).unique()) > 10


def test_line_searches_are_not_rounded():
    with pytest.raises(UsageError, match="no transforms, projections, rounding"):
        minimize(mixed(), l2(), pictures(1, 8), steps=1, optimizer=LBFGS(), rounding=nearest())


def test_amounts_are_read_as_they_are_written():
    assert Amount.parse(" 4/255 ").value == 4 / 255
    assert Amount.of(0.016) == Amount.parse("0.016")
    assert Amount.of(4 / 255).value == 4 / 255
    assert str(Amount.parse(str(Amount.of(0)))) == "0"
    for text in ("-1/255", "4/0", "nan", "inf", "much", "", "1e999"):
        with pytest.raises(UsageError, match="expected an amount of 0 or above, as 4/255"):
            Amount.parse(text)
