"""Style networks: one forward pass paints a picture. Their architecture and files; their runtime follows from these."""

from .net import StyleNet, load_style_net, save_style_net

__all__ = ["StyleNet", "load_style_net", "save_style_net"]
