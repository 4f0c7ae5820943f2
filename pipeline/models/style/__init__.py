"""Style networks: one forward pass paints a picture. Their architecture, their files, their runtime."""

from .contract import Facts, read_style_onnx
from .export import ExportError, export_style_net
from .net import StyleNet, load_style_net, save_style_net
from .runtime import StyleRuntime

__all__ = [
    "ExportError",
    "Facts",
    "StyleNet",
    "StyleRuntime",
    "export_style_net",
    "load_style_net",
    "read_style_onnx",
    "save_style_net",
]
