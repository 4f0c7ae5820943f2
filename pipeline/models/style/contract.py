"""The contract of a style network's ONNX file: what it says of itself, and reading it without trusting it.

Inputs `images` (float32 `(N, 3, H, W)` in [0, 1] or uint8 `(N, H, W, 3)`), `strength` `(N,)` and `style_weights`
`(N, S)` of rows that add up to 1; output `painted` like `images`. N, H and W are free, H and W ≥ 16. Weights are
initializers under the names that they have in `StyleNet`; the rest is in the file's metadata under "afterimage.".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ...errors import UsageError
from ..checkpoint import check_state, load_state
from ..network import digest
from .graph import INPUTS, IR, OPSET, OUTPUT, Pixels, signature, style_graph
from .net import StyleNet, load_style_net

if TYPE_CHECKING:
    import onnx

KIND, VERSION = "style_net", 1
_CONVERT = "convert its checkpoint with 'afterimage style-export'"


@dataclass(frozen=True)
class Facts:
    """What an ONNX file of a style network says of itself."""

    styles: tuple[str, ...]
    width: int
    pixels: Pixels
    digest: str
    about: dict[str, Any]
    versions: dict[str, str]


def style_model(net: StyleNet, pixels: Pixels = "float32") -> "onnx.ModelProto":
    """Return the whole ONNX model of a float32 network for images of one type, with what it says of itself."""
    from onnx import helper

    model = helper.make_model(
        style_graph(net, pixels),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="afterimage",
    )
    versions = {name: version(name) for name in ("afterimage", "torch", "onnx")}
    told = {"kind": KIND, "contract": VERSION, "styles": net.styles, "width": net.width, "pixels": pixels}
    told |= {"digest": digest(net), "about": net.about, "versions": versions}
    helper.set_model_props(model, {f"afterimage.{name}": json.dumps(value) for name, value in told.items()})
    return model


def read_style_onnx(path: str | Path) -> tuple[StyleNet, Facts]:
    """Return the network in an ONNX file that `export_style_net` wrote, in eval mode, and what the file says of itself.

    The network is made anew from the weights; the file's graph is for other programs, and is not run. Files that the
    file points to are never opened. Raises UsageError, in one line, for anything that does not keep the contract.
    """
    path = Path(path)
    model = _parsed(path)
    _refuse_external(model.graph, path)
    _check_operators(model, path)
    told = {one.key.removeprefix("afterimage."): one.value for one in model.metadata_props}
    if told.get("kind") != json.dumps(KIND):
        raise UsageError(
            f"{path} is an ONNX file, but no style network of afterimage: {_foreign(model.graph)}; {_CONVERT}"
        )
    facts = _facts(told, path)
    _check_signature(model.graph, facts, path)
    state = _weights(model.graph, path)
    with torch.device("meta"):  # a file may claim any width
        check_state(StyleNet(facts.width, facts.styles), state, path, f"a style network of width {facts.width}")
    net = StyleNet(facts.width, facts.styles, facts.about)
    load_state(net, state, path, f"a style network of width {facts.width}")
    if digest(net) != facts.digest:
        raise UsageError(f"{path}: its weights are not those that it names ({facts.digest[:12]}…); export it again")
    return net.eval(), facts


def read_style_net(path: Path) -> StyleNet:
    """Return the style network in an ONNX file that keeps the contract, or in a file of weights. Raises UsageError."""
    return read_style_onnx(path)[0] if path.suffix == ".onnx" else load_style_net(path)


def _parsed(path: Path) -> "onnx.ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}; expected an ONNX file of a style network")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as exc:
        raise UsageError(f"{path} is not an ONNX file, or is damaged: expected a model of protobuf's format") from exc
    if not model.ir_version or not model.graph.node:
        raise UsageError(f"{path} is not an ONNX file, or is damaged: it holds no graph")
    return model


def _graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _graphs(inner)


def _tensors(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    for each in _graphs(graph):
        yield from each.initializer
        for sparse in each.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in each.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)


def _refuse_external(graph: "onnx.GraphProto", path: Path) -> None:
    for tensor in _tensors(graph):
        if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
            where = next((one.value for one in tensor.external_data if one.key == "location"), "")
            raise UsageError(
                f"{path}: tensor {tensor.name!r} lies outside the file, in {where!r}, which is not opened: "
                "export it to one file"
            )


def _check_operators(model: "onnx.ModelProto", path: Path) -> None:
    from onnx import defs

    default = ("", "ai.onnx")
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in default:
                raise UsageError(f"{path}: expected ONNX's own operators only, got {node.domain}.{node.op_type}")
    for domain in [one.domain for one in (*model.opset_import, *model.functions)]:
        if domain not in default:
            raise UsageError(f"{path}: expected ONNX's own operators only, got the domain {domain!r}")
    opset, newest = max((one.version for one in model.opset_import), default=0), defs.onnx_opset_version()
    if opset > newest:
        known = f"the {newest} that onnx {version('onnx')} knows"
        raise UsageError(
            f"{path} needs opset {opset}, newer than {known}: update onnx, or export it with opset {OPSET}"
        )


def _shape(value: "onnx.ValueInfoProto") -> tuple[int | str | None, ...]:
    """Return a value's sides: numbers where they are fixed, else their names."""
    sides = value.type.tensor_type.shape.dim
    return tuple(one.dim_value if one.HasField("dim_value") else one.dim_param or None for one in sides)


def _told(value: "onnx.ValueInfoProto") -> str:
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower().replace("float", "float32")
    return (
        f"{value.name} {kind} {'×'.join('any' if isinstance(one, str | None) else str(one) for one in _shape(value))}"
    )


def _inputs(graph: "onnx.GraphProto") -> "list[onnx.ValueInfoProto]":
    own = {one.name for one in graph.initializer}
    return [one for one in graph.input if one.name not in own]


def _foreign(graph: "onnx.GraphProto") -> str:
    """Say what a network of another program takes."""
    inputs = _inputs(graph)
    fixed = next((_shape(one) for one in inputs if len(_shape(one)) == 4), ())
    text = f"it takes {', '.join(map(_told, inputs)) or 'nothing'}, and has no 'afterimage.kind' in its metadata"
    if fixed and all(isinstance(side, int) for side in fixed[2:]):
        text += f"; images would have to be resized to its fixed {fixed[2]}×{fixed[3]}"
    return text


def _facts(told: dict[str, str], path: Path) -> Facts:
    try:
        values = {name: json.loads(value) for name, value in told.items()}
        contract = int(values["contract"])
        facts = Facts(
            tuple(map(str, values["styles"])), int(values["width"]), values["pixels"], str(values["digest"]),
            dict(values["about"]), dict(values["versions"]),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as exc:
        reason = f"without {exc}" if isinstance(exc, KeyError) else f"damaged ({exc})"
        raise UsageError(f"{path}: its metadata are {reason}; export it again") from exc
    if contract > VERSION:
        raise UsageError(
            f"{path} keeps contract {contract}, newer than {VERSION}: update afterimage, or export it again"
        )
    if facts.pixels not in get_args(Pixels):
        raise UsageError(f"{path}: expected pixels of {' or '.join(get_args(Pixels))}, got {facts.pixels!r}")
    return facts


def _check_signature(graph: "onnx.GraphProto", facts: Facts, path: Path) -> None:
    """Compare names, types and shapes of what goes in and out with the contract's."""
    expected = signature(facts.pixels, len(facts.styles))
    came = [*_inputs(graph), *graph.output]
    if [one.name for one in came] != [one.name for one in expected]:
        names = f"{', '.join(one.name for one in came[:-1])} to {came[-1].name}" if came else "none"
        raise UsageError(f"{path}: expected inputs {', '.join(INPUTS)} and output {OUTPUT}, got {names}")
    for one, due in zip(came, expected, strict=True):
        free = [isinstance(side, str) and isinstance(other, int) for side, other in zip(_shape(due), _shape(one))]  # noqa: B905
        if len(_shape(one)) == len(_shape(due)) and any(free):
            raise UsageError(
                f"{path}: takes {_told(one)} only: images would have to be resized to it; export it with free sizes"
            )
        if _told(one) != _told(due):
            raise UsageError(f"{path}: expected {_told(due)}, got {_told(one)}")


def _weights(graph: "onnx.GraphProto", path: Path) -> dict[str, Tensor]:
    """Return the initializers that are no constants of the graph, by name."""
    from onnx import numpy_helper

    try:
        return {
            one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
            for one in graph.initializer
            if not one.name.startswith("constant_")
        }
    except (ValueError, TypeError) as exc:
        raise UsageError(f"{path}: its weights are damaged ({str(exc).splitlines()[0][:100]})") from exc
