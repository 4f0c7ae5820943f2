"""Tensor operations: the Python face of one compiled kernel each, with its reference in plain torch."""

from .gram import gram
from .guided_relu import guided_relu
from .style_loss import style_loss

__all__ = ["gram", "guided_relu", "style_loss"]
