"""Networks from `torch.export` programs (.pt2), unflattened so that submodules keep their names and hooks work."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .sources import Loaded, file_digest


def from_exported(path: Path) -> Loaded:
    """Load a program that takes images `(N, 3, H, W)` and returns logits.

    A program is code: load only one that you trust, as with `package.module:function`. Pickled parts are refused.
    """
    if not path.is_file():
        raise UsageError(f"no exported program {str(path)!r}; expected a file saved with torch.export.save")
    _refuse_pickles(path)
    try:
        program = torch.export.load(path)
        module = torch.export.unflatten(program)
    except Exception as exc:  # the format's reader has no errors of its own
        reason = (str(exc) or type(exc).__name__).splitlines()[0][:200]
        raise UsageError(f"cannot load the exported program {path} with torch {torch.__version__}: {reason}") from exc
    shape = _input_shape(program, path)
    module.register_forward_pre_hook(_Expected(path.name, shape))
    size = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
    return Loaded(module, path.stem, classes=_classes(program), source=file_digest(path), input_size=size)


def _refuse_pickles(path: Path) -> None:
    # torch.export.load falls back to full unpickling for these members, where a file could run code
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise UsageError(f"{path} is not a program of torch.export.save since torch 2.8; export it again")
            for name in names:
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True, map_location="cpu")
                elif name.endswith("_config.json"):
                    entries = json.loads(archive.read(name))["config"].values()
                    if any(entry["use_pickle"] for entry in entries):
                        raise UsageError(f"{path} holds pickled objects ({name}), which are not loaded")
    except pickle.UnpicklingError as exc:
        raise UsageError(f"{path} holds pickled objects, which are not loaded") from exc
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as exc:
        if isinstance(exc, UsageError):
            raise
        raise UsageError(f"{path} is not a program saved with torch.export.save") from exc


class _Expected:
    """Compares images with the shape a program was exported for, before it fails in the middle."""

    def __init__(self, name: str, shape: tuple[int | None, ...]) -> None:
        self.name, self.shape = name, shape

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        images = tuple(arguments[0].shape)
        if all(fixed in (None, came) for fixed, came in zip(self.shape, images, strict=True)):
            return
        if self.shape[0] not in (None, images[0]):
            raise UsageError(
                f"{self.name} was exported for batches of {self.shape[0]}, got {images[0]}: "
                "export with a dynamic batch dimension"
            )
        fixed = tuple("any" if side is None else side for side in self.shape)
        raise UsageError(f"{self.name} was exported for images {fixed}, got {images}: set --crop to its size")


def _input_shape(program: torch.export.ExportedProgram, path: Path) -> tuple[int | None, ...]:
    inputs = program.graph_signature.user_inputs
    shapes = [tuple(n.meta["val"].shape) for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(f"{path}: expected a program of one input (N, 3, H, W), got inputs of {shapes}")
    return tuple(side if isinstance(side, int) else None for side in shapes[0])


def _classes(program: torch.export.ExportedProgram) -> int | None:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in output.args[0] if isinstance(node, torch.fx.Node)]
    shape = tuple(values[0].shape) if len(values) == 1 else ()
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
