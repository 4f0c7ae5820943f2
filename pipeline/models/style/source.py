"""Where style networks come from: the embedded ones by name, files by path."""

from pathlib import Path

from torch import nn

from ...errors import UsageError
from ..checkpoint import read_state
from ..network import Network, Preset
from ..sources import Loaded, file_digest
from .net import StyleNet, load_style_net

NETS = Path(__file__).parent / "nets"
"""The folder of the embedded networks."""
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".model")
PRESET = Preset((256, 256))
"""They take pictures of any size, without normalization."""
GET = "take --net paintings, or a file: FILE.onnx or FILE.safetensors of a style network"
"""What to do where there is none."""


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


def from_style(model: str, path: Path) -> Loaded:
    """Load the style network in a file. Raises UsageError for what is none."""
    if not path.is_file():
        raise UsageError(f"no style network {model!r}: there is no such file; {GET}")
    return Loaded(load_style_net(path), model, PRESET, source=file_digest(path))


def _paints(path: Path) -> bool:
    """Whether a file of weights has the names of a style network's."""
    return {"conv1.conv2d.weight", "in1.weight"} <= read_state(path).keys()


def style_net(model: nn.Module) -> StyleNet:
    """Return the style network that a model is, or has behind its normalization. Raises UsageError where it is none."""
    net = model.network if isinstance(model, Network) else model
    if not isinstance(net, StyleNet):
        name = model.name if isinstance(model, Network) else type(model).__name__
        raise UsageError(f"{name} is no style network, and paints nothing: {GET}")
    return net
