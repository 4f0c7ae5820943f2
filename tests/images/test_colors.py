"""Luminance and the colors of another picture."""

import torch

from afterimage.images import Luminance
from afterimage.images.colors import luminance, matched, with_luminance
from tests.networks import pictures


def test_luminance_is_y_of_yiq_and_a_grey_its_own():
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.3]]).view(4, 3, 1, 1)
    torch.testing.assert_close(luminance(images).flatten(), torch.tensor([0.299, 0.587, 0.114, 0.3]))
    grey = pictures(2, 8)[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(luminance(grey), grey[:, :1])
    assert torch.equal(Luminance().images(Luminance().parameters(grey), (8, 8)), grey)


def test_with_another_luminance_the_rest_stays():
    images, values = pictures(2, 8) * 0.2 + 0.4, pictures(2, 8, 1)[:, :1] * 0.2 + 0.4
    made = with_luminance(images, values)
    torch.testing.assert_close(luminance(made), values)
    torch.testing.assert_close(made - luminance(made), images - luminance(images))
    assert torch.equal(with_luminance(images, luminance(images)), images)


def test_matched_has_the_others_mean_and_covariance():
    images, like = pictures(2, 24) * 0.2 + 0.4, pictures(2, 16, 3) * torch.tensor([0.1, 0.3, 0.2]).view(3, 1, 1) + 0.3
    made = matched(images, like)
    for one, other in zip(made.flatten(2), like.flatten(2), strict=True):
        torch.testing.assert_close(one.mean(1), other.mean(1))
        torch.testing.assert_close(torch.cov(one, correction=0), torch.cov(other, correction=0), rtol=1e-4, atol=1e-7)
    flat = matched(torch.full((1, 3, 4, 4), 0.25), like[:1])  # without variance there is nothing to turn
    torch.testing.assert_close(flat, like[:1].mean((2, 3), keepdim=True).expand(1, 3, 4, 4))
