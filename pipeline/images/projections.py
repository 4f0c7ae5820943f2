"""Projections: what is done to the pixels after each step, `(n, 3, H, W)` to the same, each image for itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError


@dataclass(frozen=True)
class Step:
    """Images after a step: with the gradient that it followed, their places in the run, the number of their step."""

    images: Tensor
    gradients: Tensor
    rows: Tensor
    iteration: int

    def of_rows(self, values: Tensor) -> Tensor:
        """Return what belongs to these images of what belongs to all of the run."""
        return values[self.rows.to(values.device)].to(self.images)


Projection = Callable[[Step], Tensor]


def clip(low: float = 0.0, high: float = 1.0) -> Projection:
    """Keep pixels between two values."""
    return lambda step: step.images.clamp(low, high)


def ball(center: Tensor, eps: float, norm: float) -> Projection:
    """Keep each image within `eps` of its own center `(N, 3, H, W)`, in the norm `inf` or 2."""
    if eps < 0 or norm not in (2, float("inf")):
        raise UsageError(f"ball: expected eps of at least 0 and the norm 2 or inf, got eps {eps} and norm {norm}")

    def project(step: Step) -> Tensor:
        middle = step.of_rows(center)
        away = step.images - middle
        if norm == 2:
            length = away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            return middle.add(away * (eps / length.clamp_min(torch.finfo(away.dtype).tiny)).clamp_max(1))
        return middle + away.clamp(-eps, eps)

    return project


def sphere(radius: float = 1.0) -> Projection:
    """Give each image's pixels, as one vector, a Euclidean norm of at most `radius`."""

    def project(step: Step) -> Tensor:
        length = step.images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return step.images.mul(radius / length.clamp_min(radius))

    return project


def blur(every: int, sigma: float) -> Projection:
    """Blur by a Gaussian of `sigma` pixels every so many steps; borders are mirrored."""
    if every < 1 or not sigma > 0:
        raise UsageError(f"blur: expected every so many steps, 1 or more, and sigma above 0, got {every} and {sigma}")

    def project(step: Step) -> Tensor:
        return step.images if step.iteration % every else blurred(step.images, sigma)

    return project


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return images under a Gaussian of standard deviation `sigma` in pixels, cut at four of them."""
    for axis in (2, 3):
        reach = min(max(1, round(4 * sigma)), images.shape[axis] - 1)
        if reach < 1:
            continue
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        weight = torch.exp(-0.5 * (offsets / sigma) ** 2)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        kernel = (weight / weight.sum()).view(shape).expand(images.shape[1], -1, -1, -1)
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        images = F.conv2d(F.pad(images, padding, mode="reflect"), kernel, groups=images.shape[1])
    return images


def clip_small(share: float, of: str, toward: float = 0.5) -> Projection:
    """Set the share of pixels that matter least to a grey: by their `norm` over colors, or their `contribution`.

    contribution = |Σ over colors of (x − grey) · gradient|

    Yosinski et al., Understanding neural networks through deep visualization, 2015 (arXiv:1506.06579), section 3.
    """
    if not 0 <= share < 1 or of not in ("norm", "contribution"):
        raise UsageError(f"clip_small: expected a share in [0, 1) of norm or contribution, got {share} of {of!r}")

    def project(step: Step) -> Tensor:
        away = step.images - toward
        weight = away.norm(dim=1) if of == "norm" else (away * step.gradients).sum(1).abs()
        count = int(share * weight[0].numel()) if len(weight) else 0
        if not count:
            return step.images
        most = weight.flatten(1).kthvalue(count, dim=1).values.view(-1, 1, 1, 1)
        return torch.where(weight[:, None] <= most, toward, step.images)

    return project


def inside(mask: Tensor, images: Tensor) -> Projection:
    """Keep what lies outside a mask `(N or 1, 1, H, W)` of {0, 1} as it is in `images` `(N, 3, H, W)`."""

    def project(step: Step) -> Tensor:
        own = mask.to(step.images) if len(mask) == 1 else step.of_rows(mask)
        return torch.where(own > 0, step.images, step.of_rows(images))

    return project


def chained(projections: Sequence[Projection]) -> Projection:
    """Apply one after the other."""

    def project(step: Step) -> Tensor:
        for one in projections:
            step = Step(one(step), step.gradients, step.rows, step.iteration)
        return step.images

    return project
