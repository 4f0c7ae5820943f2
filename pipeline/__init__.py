"""Afterimage shows what convolutional networks have learned, and paints with them, for one image or ten million."""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import RefusedError, UsageError

if TYPE_CHECKING:
    from .drawing import draw
    from .models.filters import filters
    from .models.style.runtime import StyleRuntime
    from .models.zoo import load_model

__all__ = ["RefusedError", "StyleRuntime", "UsageError", "draw", "filters", "load_model"]
_PACKAGES = ("images", "models", "ops", "workflows")
_HOMES = {
    "StyleRuntime": ".models.style.runtime",
    "draw": ".drawing",
    "filters": ".models.filters",
    "load_model": ".models.zoo",
}


def __getattr__(name: str) -> Any:
    """Offer the rest on first use: functions, packages, every registered method's class."""
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value
    if name[:1].isupper():  # a submodule is asked for here too, while methods are yet to be imported
        from .registry import methods

        for method in methods().values():
            if method.cls.__name__ == name:
                return method.cls
    raise AttributeError(f"module 'afterimage' has no attribute {name!r}")
