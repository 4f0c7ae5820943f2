"""Tensor operations: the Python face of one compiled kernel each, with its reference in plain torch."""

from .guided_relu import guided_relu
from .occlude import occlude

__all__ = ["guided_relu", "occlude"]
