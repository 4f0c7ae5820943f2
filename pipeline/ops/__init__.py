"""Tensor operations: the Python face of one compiled kernel each, with its reference in plain torch."""

from .gram import gram
from .guided_relu import guided_relu
from .nearest_texture import nearest_texture
from .occlude import occlude
from .style_loss import style_loss
from .total_variation import total_variation, total_variation_with_gradient

__all__ = [
    "gram",
    "guided_relu",
    "nearest_texture",
    "occlude",
    "style_loss",
    "total_variation",
    "total_variation_with_gradient",
]
