"""Afterimage shows what convolutional networks have learned, and paints with them, for one image or ten million."""

import importlib
from typing import Any

from . import registry
from .draw import draw
from .errors import RefusedError, UsageError
from .models.zoo import load_model

__all__ = ["RefusedError", "UsageError", "draw", "load_model", "registry"]


def __getattr__(name: str) -> Any:
    """Offer every registered method's class, as in `afterimage.Saliency`, and `afterimage.workflows` on first use."""
    if name == "workflows":
        return importlib.import_module("afterimage.workflows")
    for method in registry.methods().values():
        if method.cls.__name__ == name:
            return method.cls
    raise AttributeError(f"module 'afterimage' has no attribute {name!r}")
