"""Parameterizations, transforms, projections, objectives and random numbers, each by itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afterimage import UsageError
from afterimage.images import Fourier, Pixels, Result, alpha_norm, amplify, distance, guided, minimize, style
from afterimage.images.objectives import Seen, masked
from afterimage.images.projections import Step, ball, blur, blurred, clip_small, inside, sphere
from afterimage.images.scales import coarse_to_fine, octaves, pyramid
from afterimage.images.seeds import noise, uniform
from afterimage.images.transforms import Jitter, Warp
from afterimage.ops import gram
from tests.networks import mixed, pictures


def seen(images: torch.Tensor, **activations: torch.Tensor) -> Seen:
    return Seen(images, activations, torch.arange(len(images)))


@pytest.mark.parametrize("decorrelate", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (9, 14), (15, 7)])
def test_fourier_parameters_stand_for_the_image_that_they_came_from(size, decorrelate):
    images = torch.rand(3, 3, *size, dtype=torch.float64) * 0.9 + 0.05
    way = Fourier(decorrelate=decorrelate)
    back = way.images(way.parameters(images), size)
    torch.testing.assert_close(back, images, rtol=0, atol=1e-12)
    assert way.images(way.parameters(images[:0]), size).shape == (0, 3, *size)


def test_fourier_gives_low_frequencies_more():
    way = Fourier(decorrelate=False)
    start = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    parameters = way.parameters(start).requires_grad_()
    target = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((way.images(parameters, (32, 32)) * (target - 0.5)).sum(), parameters)
    size = gradient.square().sum((0, 1, 4)).sqrt()
    # white noise pulls as 1 / frequency: ten times as far apart, ten times as weak (here over a few coefficients)
    low, high = size[1:3, 1:3].mean(), size[10:16, 10:16].mean()
    assert 4 < low / high < 25


def test_pixels_are_themselves():
    images = torch.rand(2, 3, 4, 4)
    assert Pixels().images(Pixels().parameters(images), (4, 4)) is images


def test_jitter_moves_each_image_by_its_own_seed_within_its_reach():
    images = torch.arange(2 * 3 * 64, dtype=torch.float32).view(2, 3, 8, 8)
    seeds, found = torch.tensor([1, 2]), set()
    for step in range(200):
        moved = Jitter(2)(images, seeds, torch.full((2,), step), 0)
        shifts = [
            divmod(int((row == row_start).flatten().nonzero()[0]), 8)
            for row, row_start in zip(moved[:, 0], images[:, 0, 0, 0], strict=True)
        ]
        assert torch.equal(moved[0], images[0].roll(shifts[0], (1, 2)))
        found |= {((y + 4) % 8 - 4, (x + 4) % 8 - 4) for y, x in shifts}
    assert found == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    alone = Jitter(2)(images[1:], seeds[1:], torch.tensor([7]), 0)
    assert torch.equal(alone[0], Jitter(2)(images, seeds, torch.tensor([7, 7]), 0)[1])


def test_a_warp_turns_and_scales_within_its_bounds():
    images = pictures(2, 32)
    seeds, steps = torch.tensor([3, 4]), torch.tensor([0, 0])
    torch.testing.assert_close(Warp()(images, seeds, steps, 0), images, rtol=0, atol=1e-5)
    turned = Warp(degrees=5, scale=0.1)(images, seeds, steps, 0)
    assert 0.005 < (turned - images).abs().mean() < 0.2
    assert not torch.equal(turned, Warp(degrees=5, scale=0.1)(images, seeds, steps + 1, 0))


def test_draws_are_uniform_and_belong_to_seed_iteration_and_stream():
    seeds = torch.arange(4000)
    draws = uniform(seeds, torch.zeros(4000, dtype=torch.int64), 0, 2).numpy()
    # 4000 numbers: their mean is within 0.5 ± 4 · 0.289 / √4000, columns correlate below 4 / √4000
    assert np.abs(draws.mean(0) - 0.5).max() < 0.019
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.064
    assert np.histogram(draws[:, 0], 10, (0, 1))[0].min() > 300
    for other in (
        uniform(seeds, torch.ones(4000, dtype=torch.int64), 0, 1),
        uniform(seeds, torch.zeros(4000, dtype=torch.int64), 1, 1),
    ):
        assert abs(np.corrcoef(draws[:, 0], other[:, 0])[0, 1]) < 0.064
    few = uniform(torch.tensor([17]), torch.tensor([0]), 0, 2)
    assert np.array_equal(few[0], draws[17])
    assert torch.equal(noise(torch.tensor([5, 6]), (4, 4))[1], noise(torch.tensor([6]), (4, 4))[0])


def step(images, gradients=None, iteration=1) -> Step:
    return Step(
        images, torch.zeros_like(images) if gradients is None else gradients, torch.arange(len(images)), iteration
    )


@given(st.floats(0, 0.5), st.sampled_from([2, math.inf]))
def test_a_ball_holds_and_leaves_what_is_inside(eps, norm):
    center = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = center + torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    away = ball(center, eps, norm)(step(moved)) - center
    assert away.flatten(1).norm(dim=1, p=norm).max() <= eps + 1e-15  # rounding of center + step
    near = center + (moved - center) * 1e-3
    assert eps < 0.1 or torch.equal(ball(center, 1.0, norm)(step(near)), near) or norm == 2
    torch.testing.assert_close(ball(center, 1.0, norm)(step(near)), near, rtol=0, atol=1e-15)


def test_projections_do_what_they_say():
    images = pictures(2, 8).double()
    assert sphere(2.0)(step(images)).flatten(1).norm(dim=1).max() <= 2 + 1e-12
    assert torch.equal(blur(3, 1.0)(step(images, iteration=2)), images)
    soft = blur(3, 1.0)(step(images, iteration=3))
    assert soft.var() < images.var()
    constant = torch.full((1, 3, 8, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blurred(constant, 2.0), constant)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:4, 3:5] = 1
    kept = inside(mask, images)(step(images + 1))
    assert torch.equal((kept - images)[:, :1] > 0.5, mask.expand(2, -1, -1, -1) > 0)


@pytest.mark.parametrize("of", ["norm", "contribution"])
def test_the_pixels_that_matter_least_become_grey(of):
    images = torch.full((1, 3, 1, 4), 0.5)
    images[0, :, 0] += torch.tensor([0.0, 0.1, 0.2, 0.3])
    gradients = torch.ones_like(images)
    gradients[..., 3] = 0
    found = clip_small(0.5, of)(step(images, gradients))[0, 0, 0] - 0.5
    expected = [0, 0, 0.2, 0.3] if of == "norm" else [0, 0.1, 0.2, 0]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_style_is_gatys_formula_and_zero_on_itself():
    features, other = torch.rand(2, 5, 4, 6, dtype=torch.float64), torch.rand(1, 5, 4, 6, dtype=torch.float64)
    target = gram(other, normalize="positions")[0]
    found = style("a", target)(seen(features, a=features))
    flat, wanted = features.flatten(2), other.flatten(2)[0]
    expected = [(f @ f.T - wanted @ wanted.T).square().sum() / (4 * 5**2 * 24**2) for f in flat]
    torch.testing.assert_close(found, torch.stack(expected))
    own = gram(features, normalize="positions")
    assert style("a", own)(seen(features, a=features)).abs().max() < 1e-20


def test_a_mask_weighs_positions():
    features = torch.rand(1, 4, 4, 4, dtype=torch.float64)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask[..., :4, :] = 1
    half = gram(masked(features, mask), normalize="positions")
    torch.testing.assert_close(half, gram(features[:, :, :2], normalize="positions"), rtol=1e-5, atol=1e-6)


def test_objectives_from_their_formulas():
    features, aim = torch.rand(3, 4, 5, 5, dtype=torch.float64), torch.rand(3, 4, 5, 5, dtype=torch.float64)
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    told = seen(images, a=features)
    expected = [(f - t).square().sum() / t.square().sum() for f, t in zip(features, aim, strict=True)]
    torch.testing.assert_close(distance("a", aim)(told), torch.stack(expected))
    torch.testing.assert_close(distance("a", aim[1:2])(told)[1], expected[1])
    torch.testing.assert_close(alpha_norm(6)(told), (images - 0.5).pow(6).sum((1, 2, 3)))
    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(amplify("a")(seen(images, a=leaf)).sum(), leaf)
    torch.testing.assert_close(gradient, features / features[0].numel())  # the gradient is the activation itself


def test_a_guide_pulls_each_position_to_the_one_that_fits_best():
    features, guide = torch.randn(2, 3, 2, 2, dtype=torch.float64), torch.randn(1, 3, 1, 2, dtype=torch.float64)
    found = guided("a", guide)(seen(torch.rand(2, 3, 4, 4), a=features))
    expected = [
        torch.stack([max(f[:, y, x] @ guide[0, :, 0, k] for k in range(2)) for y in range(2) for x in range(2)]).mean()
        for f in features
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_sizes_of_a_pyramid_grow_to_the_last():
    assert pyramid((100, 200), 3, 2.0, least=20) == [(25, 50), (50, 100), (100, 200)]
    assert pyramid((100, 200), 5, 2.0, least=40) == [(50, 100), (100, 200)]
    assert pyramid((10, 10), 3, 1.5) == [(10, 10)]


def result(images: torch.Tensor, diverged: list[bool], value: float) -> Result:
    count = len(images)
    losses = torch.full((count, 2), value)
    return Result(images, losses[:, 0], losses, torch.full((count,), 2), torch.tensor(diverged))


def test_scales_start_from_the_size_before_and_leave_what_diverged():
    calls = []

    def paint(start, skip):
        calls.append((tuple(start.shape[2:]), None if skip is None else skip.tolist()))
        return result(start, [False, len(calls) == 1], float(len(calls)))

    found = coarse_to_fine([(4, 4), (8, 8)], torch.rand(2, 3, 8, 8), paint)
    assert calls == [((4, 4), None), ((8, 8), [False, True])]
    assert found.diverged.tolist() == [False, True]
    assert found.loss.tolist() == [2, 1]
    assert found.losses.shape == (2, 4)
    assert found.images.shape == (2, 3, 8, 8)


def test_octaves_add_only_what_was_drawn():
    images = pictures(1, 16)
    found = octaves([(8, 8), (16, 16)], images, lambda start, skip: result(start, [False], 0.0))
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-6)  # nothing was drawn


@pytest.mark.parametrize(
    "make",
    [
        lambda: Jitter(-1),
        lambda: Warp(scale=1.0),
        lambda: ball(torch.rand(1, 3, 2, 2), -0.1, 2),
        lambda: blur(0, 1.0),
        lambda: clip_small(1.0, "norm"),
        lambda: minimize(mixed(), amplify("nowhere"), pictures(1, 8), steps=1),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make):
    with pytest.raises(UsageError) as caught:
        make()
    assert "\n" not in str(caught.value)
