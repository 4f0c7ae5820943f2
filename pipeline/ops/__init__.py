"""Tensor operations: the Python face of one compiled kernel each, with its reference in plain torch."""

from .guided_relu import guided_relu
from .occlude import occlude
from .total_variation import total_variation, total_variation_with_gradient

__all__ = ["guided_relu", "occlude", "total_variation", "total_variation_with_gradient"]
