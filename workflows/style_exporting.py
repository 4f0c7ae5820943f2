"""Style networks for production: an ONNX file, or a folder that Triton Inference Server serves as it is.

OUT/<net>/config.pbtxt      inputs and output, batches of equal pictures made by the server
OUT/<net>/<n>/model.onnx    version n, one more than the last
"""

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet, load_style_net
from afterimage.models.style.export import ExportError, export_style_net
from afterimage.registry import check_options, option, options_of

from .files import sync_folder

SUFFIXES = (".safetensors", ".pth", ".pt", ".model")


@dataclass(frozen=True)
class Export:
    """What can be chosen about an export."""

    pixels: Literal["float32", "uint8"] = option(
        "float32", "pictures in and out: float32 (N, 3, H, W) in [0, 1], or uint8 (N, H, W, 3) as they are decoded"
    )
    layout: Literal["file", "triton"] = option("file", "an ONNX file, or a model repository for Triton")
    batch_size: int = option(8, "pictures of one size that Triton may put together, at most")

    def __post_init__(self) -> None:
        check_options(self)
        if self.batch_size < 1:
            raise UsageError(f"batch_size: expected 1 or above, got {self.batch_size}")


def style_export(net: str | Path, out: str | Path, **given: Any) -> Path:
    """Export the style network in a file, ours or a checkpoint of pytorch/examples; return the ONNX file written.

    `given` are `Export`'s fields. Raises UsageError for a file that is no style network, ExportError where what ONNX
    Runtime computes from the exported file is not what torch computes; nothing is left of it.
    """
    chosen, source, target = Export(**given), Path(net), Path(out)
    if source.suffix not in SUFFIXES:
        raise UsageError(f"NET: expected a file that ends in {', '.join(SUFFIXES)}, got {source.name!r}")
    loaded = load_style_net(source)
    if chosen.layout == "triton":
        return _into_repository(loaded, target, source.stem, chosen)
    if target.suffix != ".onnx":
        raise UsageError(f"OUT: expected a file that ends in .onnx, got {target.name!r}; or --layout triton")
    target.parent.mkdir(parents=True, exist_ok=True)
    export_style_net(loaded, target, pixels=chosen.pixels)
    return target


def _into_repository(net: StyleNet, repository: Path, name: str, chosen: Export) -> Path:
    """Add a version to a model of a repository; what is served already stays as it is until the version is whole."""
    if repository.exists() and not repository.is_dir():
        raise UsageError(f"OUT: expected the folder of a model repository, {repository} is a file")
    model = repository / name
    model.mkdir(parents=True, exist_ok=True)
    config = model / "config.pbtxt"
    text = configuration(net, name, chosen)
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise UsageError(f"{config} describes another network or other pixels; choose another OUT, or rename {name}")
    version = max((int(path.name) for path in model.iterdir() if path.name.isdecimal()), default=0) + 1
    making = Path(tempfile.mkdtemp(prefix=".", dir=model))
    try:
        export_style_net(net, making / "model.onnx", pixels=chosen.pixels)
        making.chmod(0o755)
        config.write_text(text, encoding="utf-8")
        os.replace(making, model / str(version))
        sync_folder(model)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return model / str(version) / "model.onnx"


def configuration(net: StyleNet, name: str, chosen: Export) -> str:
    """Return Triton's configuration of a network: strength and style weights belong to each picture of a batch."""
    kind, dims = ("TYPE_FP32", "3, -1, -1") if chosen.pixels == "float32" else ("TYPE_UINT8", "-1, -1, 3")
    styles = ", ".join(net.styles).replace("\n", " ")
    return f"""# Styles, in the order of style_weights: {styles}
name: "{_quoted(name)}"
backend: "onnxruntime"
max_batch_size: {chosen.batch_size}
input [
  {{ name: "images", data_type: {kind}, dims: [ {dims} ] }},
  {{ name: "strength", data_type: TYPE_FP32, dims: [ 1 ], reshape: {{ shape: [ ] }} }},
  {{ name: "style_weights", data_type: TYPE_FP32, dims: [ {len(net.styles)} ] }}
]
output [
  {{ name: "painted", data_type: {kind}, dims: [ {dims} ] }}
]
dynamic_batching {{ }}
"""


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def command() -> click.Command:
    """Return the command `style-export`."""
    from .cli import UNEXPECTED, click_option

    def run(net: Path, out: Path, **given: Any) -> int:
        try:
            click.echo(style_export(net, out, **given))
        except ExportError as error:
            print(f"afterimage: {error}", file=sys.stderr)
            return UNEXPECTED
        return 0

    return click.Command(
        "style-export",
        callback=run,
        params=[
            click.Argument(["net"], type=click.Path(path_type=Path)),
            click.Argument(["out"], type=click.Path(path_type=Path)),
            *(click_option(one) for one in options_of(Export)),
        ],
        help="Export a trained style network to ONNX: any size and batch, strength and style weights as inputs.\n\n"
        "NET is what style-train wrote, or a checkpoint of pytorch/examples' fast_neural_style. The file is kept "
        "only if ONNX Runtime computes from it what torch does.",
        short_help="Export a trained style network to ONNX, or for Triton.",
        no_args_is_help=True,
    )
