"""Where style networks come from: the embedded ones by name, files by path."""

from pathlib import Path

from torch import nn

from ...errors import UsageError, nearest
from ..checkpoint import names_in
from ..network import Network, Preset
from .net import StyleNet
from .runtime import StyleRuntime

NETS = Path(__file__).parent / "nets"
"""The folder of the embedded networks."""
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".model")
PRESET = Preset((256, 256))
"""They take pictures of any size, without normalization; this one is for tables of their layers."""


def embedded() -> dict[str, Path]:
    """Return the files of the embedded networks by name."""
    return {path.stem: path for path in sorted(NETS.glob("*.safetensors"))}


def style_file(model: str) -> Path | None:
    """Return the file of the style network that `model` names, by its name or its path; None where it names none."""
    if model in embedded():
        return embedded()[model]
    path = Path(model)
    if path.suffix == ".onnx" or (path.suffix in WEIGHTS and path.is_file() and _paints(path)):
        return path
    return None


def no_style_net(model: str) -> str:
    """Return what to say of a name or a path that names no style network."""
    known = ", ".join(embedded()) or "there are none here"
    return (
        f"{model!r} is no style network{nearest(model, embedded())}; expected an embedded one ({known}), "
        "or FILE.onnx or FILE.safetensors of one that was trained for a style"
    )


def painter(model: nn.Module) -> StyleNet | StyleRuntime:
    """Return what paints: the style network or its runtime that a model is, or has behind its normalization.

    Raises UsageError where it is none.
    """
    net = model.network if isinstance(model, Network) else model
    if not isinstance(net, StyleNet | StyleRuntime):
        raise UsageError(no_style_net(model.name if isinstance(model, Network) else type(model).__name__))
    return net


def paints(model: nn.Module) -> bool:
    """Whether a model is a style network."""
    return isinstance(model.network if isinstance(model, Network) else model, StyleNet | StyleRuntime)


def _paints(path: Path) -> bool:
    """Whether a file of weights has the names of a style network's."""
    return {"conv1.conv2d.weight", "in1.weight"} <= names_in(path)
