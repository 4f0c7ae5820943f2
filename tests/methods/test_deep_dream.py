"""DeepDream: one step by hand, octaves, guides, what is refused."""

import pytest
import torch

from afterimage import DeepDream, UsageError, load_model
from afterimage.models.layers import activations
from tests.networks import mixed, pictures

LAYER = "convolutions.3"


def test_one_step_by_hand():
    model, images = mixed().double(), pictures(2, 16).double() * 0.5 + 0.25
    found = DeepDream(of=LAYER, octaves=1, steps=1, rate=0.01, jitter=0)(model, images)
    leaf = images.clone().requires_grad_()
    activation = activations(model, leaf, [LAYER])[LAYER]
    # the gradient of the layer set equal to its activation; its scale does not matter to a normalized step
    (gradient,) = torch.autograd.grad(activation, leaf, activation.detach())
    expected = images + 0.01 * gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_layer_grows_through_the_octaves():
    model, images = load_model("demo"), pictures(1, 128)
    found = DeepDream(octaves=3, steps=4).details(model, images)
    assert found.losses.shape == (1, 12)
    assert found.loss > 2 * found.losses[0, 0]
    assert found.image.isfinite().all()
    assert 0 <= found.image.min() <= found.image.max() <= 1


def test_a_channel_is_another_dream_and_a_guide_a_third():
    model, images = mixed(), pictures(1, 32)
    dreams = [
        DeepDream(of=of, octaves=1, steps=3, jitter=0)(model, images, guide)
        for of, guide in ((LAYER, None), (f"{LAYER}:2", None), (LAYER, pictures(1, 24, seed=9)))
    ]
    assert len({tuple(dream.flatten()[:50].tolist()) for dream in dreams}) == 3
    plain = activations(model, images, [LAYER])[LAYER][:, 2].mean()
    assert activations(model, dreams[1], [LAYER])[LAYER][:, 2].mean() > plain


def test_progress_counts_all_octaves():
    told = []
    DeepDream(of=LAYER, octaves=2, steps=3)(mixed(), pictures(2, 96), progress=lambda *one: told.append(one))
    assert told[-1] == (12, 12)
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("given", "guide", "message"),
    [
        ({"octaves": 0}, None, "expected octaves and steps of 1 or more"),
        ({"factor": 1.0}, None, "factor above 1"),
        ({"of": "nowhere"}, None, "no layer 'nowhere'"),
        ({"of": f"{LAYER}:99"}, None, "out of range"),
        ({"of": LAYER}, torch.rand(3, 8, 8), r"guide: expected a picture \(1, 3, h, w\)"),
        ({"of": f"{LAYER}:1"}, torch.rand(1, 3, 8, 8), "guide: expected a whole layer"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(given, guide, message):
    with pytest.raises(UsageError, match=message):
        DeepDream(**given).check(mixed(), pictures(1, 16), guide)
