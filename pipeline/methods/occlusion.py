"""Occlusion: how far a score falls when a window of the image is covered.

    fall(window)   = score(image) - score(image with the window covered)
    heatmap(pixel) = mean of fall(window) over the windows that cover the pixel

Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901), section 4.2.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images, check_subject, class_logits, probabilities, target_classes
from ..models.layers import Neuron, activations
from ..models.windows import Extent, Fill, Grid
from ..ops import occlude
from ..registry import Boxes, ClassGrid, Heatmap, Images, Values, option, register

PIXELS = {"cpu": 2**20, "cuda": 2**22}
"""How many pixels a model call takes at most: 20 pictures of 224 × 224 on a CPU, 83 on a GPU."""
PICTURES = 256
"""How many pictures a model call takes at most, however small they are."""


class Scores(NamedTuple):
    """The score of each image as it is and with each window covered; rows and columns are the windows' places."""

    grid: Grid
    """Where the windows are."""
    whole: Tensor
    """Of the image as it is, `(N,)`."""
    covered: Tensor
    """`(N, rows, columns)`."""
    probabilities: Tensor | None = None
    """The target class's, `(N, rows, columns)`; None where a neuron is explained."""
    classes: Tensor | None = None
    """The most probable class, `(N, rows, columns)` int64; None where a neuron is explained."""

    @property
    def falls(self) -> Tensor:
        """How far the score falls under each window, `(N, rows, columns)`; positive: the window was evidence."""
        return self.whole[:, None, None] - self.covered

    @property
    def heatmap(self) -> Tensor:
        """The mean fall over the windows that cover a pixel, `(N, 1, H, W)`."""
        # The paper plots the grid by the window's place; a pixel's mean has the image's size, whatever the stride.
        return self.grid.spread(self.falls)


class OcclusionDetails(NamedTuple):
    """What occlusion knows of each image; the worst window is the one under which the score falls most."""

    heatmap: Heatmap
    worst: Images
    """The image with its worst window covered."""
    worst_box: Boxes
    worst_fall: Values
    worst_probability: Values | None
    """The target class's probability under the worst window."""
    classes: ClassGrid | None
    """The most probable class under each window."""


@register
class Occlusion:
    """Which parts of the image the score rests on: how far it falls when a window over them is covered."""

    window: Extent | int | tuple[int, int] = option(32, "what is covered, in pixels: a side, or HEIGHTxWIDTH")
    stride: Extent | int | tuple[int, int] = option(16, "step between windows, at most their size")
    fill: Fill | float | tuple[float, float, float] = option(
        0.5, "what covers: a grey or RED,GREEN,BLUE in [0, 1], mean (the image's own color) or blur (the image blurred)"
    )
    # The paper plots the probability, which hardly falls while it is near one; the logit does.
    score: Literal["logit", "probability"] = option("logit", "what falls; the paper takes the probability")
    of: Neuron | None = option(None, "a neuron instead of the class: layer[:channel[:y:x]]")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, a stride that leaves pixels uncovered."""
        window, stride = Extent.of(self.window), Extent.of(self.stride)
        if stride.height > window.height or stride.width > window.width:
            expected = f"stride: expected at most the window, {window}, so that all is covered; got {stride}"
            raise UsageError(f"{expected}; use a smaller stride or a larger window")

    def __call__(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> Heatmap:
        """Return the heatmaps `(N, 1, H, W)`, signed, of images `(N, 3, H, W)` in [0, 1].

        `target` holds class indices `(N,)`; without it, each image's most probable class. Raises `UsageError` where
        the window is larger than the images.
        """
        return self.scores(model, images, target).heatmap

    def details(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> OcclusionDetails:
        """Return the heatmaps and what there is to say of each image's worst window; takes what the call takes."""
        scores, images = self.scores(model, images, target), images.detach()
        falls, probabilities = scores.falls.flatten(1), scores.probabilities
        worst = falls.argmax(1, keepdim=True)
        boxes = scores.grid.boxes()[worst.cpu()]
        pictures = map(occlude, images, boxes, self._fills(images))
        return OcclusionDetails(
            heatmap=scores.heatmap,
            worst=torch.cat([images[:0], *pictures]),
            worst_box=boxes.squeeze(1).to(images.device),
            worst_fall=falls.gather(1, worst).squeeze(1),
            worst_probability=None if probabilities is None else probabilities.flatten(1).gather(1, worst).squeeze(1),
            classes=scores.classes,
        )

    def scores(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> Scores:
        """Return the scores and the most probable classes by window; takes what the call takes."""
        check_images(images)
        if not all(images.shape[2:]):
            raise UsageError(f"images: expected pixels to cover, got shape {tuple(images.shape)}")
        check_subject(target, self.of, self.score)
        grid = Grid(Extent(*images.shape[2:]), Extent.of(self.window), Extent.of(self.stride))
        with frozen(model), torch.no_grad():
            outputs = self._outputs(model, images)
            subject = self._subject(outputs, target)
            read = [self._read(outputs, subject)]
            for pictures, owners in _covered(images.detach(), grid.boxes(), self._fills(images)):
                read.append(self._read(self._outputs(model, pictures), subject[owners]))
        columns = [torch.cat(parts) for parts in zip(*read, strict=True)]
        count, shape = len(images), (len(images), len(grid.rows), len(grid.columns))
        return Scores(grid, columns[0][:count], *(column[count:].view(shape) for column in columns))

    def _fills(self, images: Tensor) -> Sequence[float | Tensor]:
        return Fill.of(self.fill).over(images.detach(), Extent.of(self.window))

    def _outputs(self, model: nn.Module, pictures: Tensor) -> Tensor:
        """Return logits `(B, classes)`, or one value per feature map of the neuron's layer, `(B, C)`."""
        if self.of is None:
            return class_logits(model, pictures)
        return self.of.maps(activations(model, pictures, [self.of.layer])[self.of.layer])

    def _subject(self, outputs: Tensor, target: Tensor | None) -> Tensor:
        """Return which column of the outputs is explained, `(N,)`, from those of the images as they are."""
        if self.of is None:
            return target_classes(outputs, target)
        # Of a layer it is the strongest map of the whole image, followed under all its windows, as in the paper.
        channel = self.of.channel
        return outputs.argmax(1) if channel is None else outputs.new_full((len(outputs),), channel, dtype=torch.int64)

    def _read(self, outputs: Tensor, subject: Tensor) -> tuple[Tensor, ...]:
        """Return the score `(B,)` and, for classes, the probability and the most probable class."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        score = outputs.gather(1, subject[:, None]).squeeze(1)
        if self.of is not None:
            return (score,)
        probability = probabilities(outputs).gather(1, subject[:, None]).squeeze(1)
        return probability if self.score == "probability" else score, probability, outputs.argmax(1)


def _covered(images: Tensor, boxes: Tensor, fills: Sequence[float | Tensor]) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield every image `(C, H, W)` under every window, one model call's at a time, and the image each belongs to."""
    count, windows, size = len(images) * len(boxes), len(boxes), images.shape[2] * images.shape[3]
    most = min(PICTURES, max(1, PIXELS.get(images.device.type, PIXELS["cpu"]) // size))
    calls = math.ceil(count / most)  # of equal size, give or take one
    for start, stop in pairwise(call * count // calls for call in range(calls + 1)) if calls else ():
        parts, owners = [], []
        for image in range(start // windows, (stop - 1) // windows + 1):
            first, last = max(start - image * windows, 0), min(stop - image * windows, windows)
            parts.append(occlude(images[image], boxes[first:last], fills[image]))
            owners += [image] * (last - first)
        yield torch.cat(parts), owners
