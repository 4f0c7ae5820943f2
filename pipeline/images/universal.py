"""A universal patch: one small picture that makes a network see a class wherever it lies on whichever image.

    patch = argmax E over images and places of log P(class | image with the patch at the place)

Brown et al., Adversarial patch, 2017 (arXiv:1712.09665).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images, checked_target, class_logits
from ..models.layers import OUTPUT
from ..models.windows import Extent
from .memory import batch_for
from .objectives import Objective, Seen, objective
from .optimize import Result, maximize
from .optimizers import Adam
from .patches import Place, pasted, scattered
from .projections import clip
from .rounding import levels, nearest
from .seeds import noise, uniform
from .transforms import Transform

PICTURES, PLACES = 0, 1
"""The streams of random numbers."""


def universal_patch(
    model: nn.Module,
    images: Tensor | Callable[[int], Tensor],
    target: int,
    size: Extent | int | tuple[int, int] = 50,
    *,
    steps: int = 200,
    batch: int = 8,
    rate: float = 0.05,
    seed: int = 0,
    transforms: Sequence[Transform] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Optimize one patch `(1, 3, h, w)` over images; the result holds it, in multiples of 1/255.

    Args:
        model: the network to be fooled.
        images: `(N, 3, H, W)` in [0, 1], of which each step takes `batch` at random; or a function from a step's number
            to those that it takes, `(batch, 3, H, W)`.
        target: the class that is to be seen.
        size: of the patch, in pixels.
        steps: how many.
        batch: how many images a step takes of a tensor.
        rate: Adam's.
        seed: what images, places and the start are drawn by.
        transforms: applied to the patch before it is pasted. The paper turns and scales it as a whole; `Warp` does so
            inside its square.
        progress: called with the steps done and those in all.

    Raises UsageError for a patch that lies outside of the images, and where a step does not fit into memory.
    """
    draw = _drawing(images, batch, seed) if isinstance(images, Tensor) else images
    first, extent = draw(0), Extent.of(size)
    _check(model, first, target, extent)
    one = torch.tensor([seed])
    return maximize(
        _Scenes(model, draw, extent, one),
        _mean_probability(target),
        noise(one, (extent.height, extent.width)).clamp(0, 1).to(first),
        steps=steps,
        optimizer=Adam(rate),
        transforms=transforms,
        projections=[clip()],
        rounding=nearest(),
        seeds=one,
        batch=1,  # the memory of a step was predicted above
        progress=progress,
    )


class _Scenes(nn.Module):
    """The network as it sees a patch: each pass lays it somewhere on the next images, and returns their logits."""

    def __init__(self, model: nn.Module, draw: Callable[[int], Tensor], extent: Extent, seed: Tensor) -> None:
        super().__init__()
        self.model, self.draw, self.extent, self.seed = model, draw, extent, seed
        self.number = 0

    def forward(self, patch: Tensor) -> Tensor:
        """Return logits `(B, classes)` for a patch `(1, 3, h, w)`."""
        images = levels(self.draw(self.number)).to(patch)
        draws = uniform(self.seed, torch.tensor([self.number]), PLACES, 2 * len(images)).view(-1, 2)
        self.number += 1
        room = images.shape[2] - self.extent.height, images.shape[3] - self.extent.width
        return class_logits(self.model, pasted(images, patch, scattered(draws, room)))


def _drawing(images: Tensor, batch: int, seed: int) -> Callable[[int], Tensor]:
    """Return a function from a step's number to the images that it takes, drawn with replacement."""
    check_images(images)
    if not len(images) or batch < 1:
        raise UsageError(f"images: expected one at least, and a batch above 0, got {len(images)} and {batch}")

    def draw(number: int) -> Tensor:
        draws = uniform(torch.tensor([seed]), torch.tensor([number]), PICTURES, batch)[0]
        return images.detach()[(draws * len(images)).long().to(images.device)]

    return draw


def _check(model: nn.Module, images: Tensor, target: int, extent: Extent) -> None:
    check_images(images)
    Place("center").corners((images.shape[2], images.shape[3]), (extent.height, extent.width), torch.arange(0))
    with frozen(model), torch.no_grad():
        classes = class_logits(model, images[:1]).shape[1]
    checked_target(torch.tensor([target]), 1, classes)
    if (most := batch_for(model, (OUTPUT,), images)) < len(images):
        raise UsageError(f"batch: expected what fits into memory, {most} images, got {len(images)}")


def _mean_probability(target: int) -> Objective:
    """Return the mean log-probability of a class over all that was seen."""

    def mean(seen: Seen) -> Tensor:
        return seen.logits.log_softmax(1)[:, target].mean(0, keepdim=True)

    return objective(OUTPUT, name="mean log probability")(mean)
