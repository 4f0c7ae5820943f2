"""What every image-making method knows of each picture that it makes."""

from typing import NamedTuple

from .images import Result
from .registry import Curve, Diverged, Image, Values


class Painting(NamedTuple):
    """Pictures with their losses: what `details` of an image-making method returns, or begins with."""

    image: Image
    loss: Values
    """Of the picture as it is; what was minimized, or maximized."""
    losses: Curve
    """At each step."""
    steps: Values
    """How many were taken."""
    diverged: Diverged


def painted(result: Result) -> Painting:
    """Return what an optimization made, as a method's details."""
    return Painting(result.images, result.loss, result.losses, result.steps.to(result.loss.dtype), result.diverged)
