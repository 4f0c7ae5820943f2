"""The style network as an ONNX graph of the default domain, opset 18, for any number and size of pictures.

The graph gives what `StyleNet` gives, by cheaper means; weights lie in it under their names, and what is made from
them is made of constants, which runtimes do once, when they load the graph:

    norm of (N, C, h, w)     the one operator over (1, N·C, h, w), so that each picture has its own scale and shift
    nearest ×2, conv 3×3     transposed convolution 4×4 of stride 2, of weights [w₂, w₁+w₂, w₀+w₁, w₀] each way;
                             reflection after doubling is repetition of the edge before it
    conv 9×9 of 3 outputs    conv 10×12 of stride (2, 4) of 24 outputs, the 2 × 4 pixels of a block, laid out afterwards
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .net import EPS, Convolution, StyleNet

if TYPE_CHECKING:
    import onnx

Pixels = Literal["float32", "uint8"]
"""`(N, 3, H, W)` in [0, 1], or `(N, H, W, 3)` levels."""
OPSET, IR = 18, 9
INPUTS, OUTPUT = ("images", "strength", "style_weights"), "painted"
BLOCK = (2, 4)
"""Rows and columns of pixels that the last convolution gives at once; the padded sides are multiples of both."""
DOUBLED = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


def style_graph(net: StyleNet, pixels: Pixels = "float32") -> "onnx.GraphProto":
    """Return the graph of a network for images of one type."""
    return _Graph(net).built(pixels)


def signature(pixels: Pixels, styles: int) -> "list[onnx.ValueInfoProto]":
    """Return names, types and shapes of the inputs and, last, of the output; free sides are named."""
    from onnx import TensorProto, helper

    image: tuple[int, tuple[int | str, ...]] = (TensorProto.FLOAT, ("N", 3, "H", "W"))
    if pixels == "uint8":
        image = (TensorProto.UINT8, ("N", "H", "W", 3))
    number = TensorProto.FLOAT
    kinds = (image, (number, ("N",)), (number, ("N", styles)), image)
    return [helper.make_tensor_value_info(name, *kind) for name, kind in zip((*INPUTS, OUTPUT), kinds, strict=True)]


class _Graph:
    """Nodes and constants as they are added; a value is known by its name."""

    def __init__(self, net: StyleNet) -> None:
        from onnx import numpy_helper

        self.net = net
        self.nodes: list[onnx.NodeProto] = []
        state = {name: value.detach().float().cpu().numpy() for name, value in net.state_dict().items()}
        self.constants = {name: numpy_helper.from_array(value, name) for name, value in state.items()}

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def numbers(self, values: "Sequence[int] | npt.NDArray[Any] | float") -> str:
        """Return the name of a constant: integers as int64, others as float32."""
        from onnx import numpy_helper

        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def built(self, pixels: Pixels) -> "onnx.GraphProto":
        from onnx import helper

        *inputs, output = signature(pixels, len(self.net.styles))
        (self.float_pixels if pixels == "float32" else self.byte_pixels)()
        return helper.make_graph(self.nodes, "style", inputs, [output], list(self.constants.values()))

    def float_pixels(self) -> None:
        full = self.numbers(255.0)
        levels = self.painted(self.add("Mul", "images", full))
        self.mixed("images", self.clipped(self.add("Div", levels, full), 1.0), OUTPUT)

    def byte_pixels(self) -> None:
        levels = self.add("Transpose", self.add("Cast", "images", to=1), perm=[0, 3, 1, 2])
        rounded = self.add("Round", self.mixed(levels, self.clipped(self.painted(levels), 255.0)))
        self.add("Cast", self.add("Transpose", rounded, perm=[0, 2, 3, 1]), to=2, output=OUTPUT)

    def clipped(self, maps: str, most: float) -> str:
        return self.add("Clip", maps, self.numbers(0.0), self.numbers(most))

    def mixed(self, content: str, painted: str, output: str | None = None) -> str:
        """Add the mean of content and painted by strength, exact at 0 and 1."""
        strength = self.add("Reshape", "strength", self.numbers([-1, 1, 1, 1]))
        rest = self.add("Sub", self.numbers(1.0), strength)
        return self.add(
            "Add", self.add("Mul", content, rest), self.add("Mul", painted, strength), output=output
        )  # fmt: skip

    def painted(self, levels: str) -> str:
        """Add the network for levels `(N, 3, H, W)` in [0, 255]; what comes out may lie beyond them."""
        maps = levels
        for axis in (2, 3):
            maps = self.reflected(maps, axis)
        for number in (1, 2, 3):
            maps = self.normed(self.convolved(maps, f"conv{number}"), f"in{number}", relu=True)
        for number in range(1, len(self.net.blocks) + 1):
            block = f"res{number}"
            inner = self.normed(self.convolved(maps, f"{block}.conv1"), f"{block}.in1", relu=True)
            maps = self.add("Add", maps, self.normed(self.convolved(inner, f"{block}.conv2"), f"{block}.in2"))
        for number, norm in ((1, "in4"), (2, "in5")):
            maps = self.normed(self.doubled(maps, f"deconv{number}"), norm, relu=True)
        return self.cropped(self.last(maps), levels)

    def reflected(self, maps: str, axis: int) -> str:
        """Reflect at the end to a multiple of 4, by an index, as `padded` does."""
        zero, one, four = (self.numbers(value) for value in (0, 1, 4))
        size = self.add("Squeeze", self.add("Shape", maps, start=axis, end=axis + 1))
        whole = self.add("Mul", self.add("Div", self.add("Add", size, self.numbers(3)), four), four)
        last = self.add("Sub", size, one)
        beyond = self.add("Abs", self.add("Sub", last, self.add("Range", zero, whole, one)))
        return self.add("Gather", maps, self.add("Sub", last, beyond), axis=axis)

    def cropped(self, maps: str, like: str) -> str:
        ends = self.add("Shape", like, start=2, end=4)
        return self.add("Slice", maps, self.numbers([0, 0]), ends, self.numbers([2, 3]))

    def padded(self, maps: str, reach: int, mode: str = "reflect") -> str:
        return self.add("Pad", maps, self.numbers([0, 0, reach, reach] * 2), mode=mode)

    def convolved(self, maps: str, name: str) -> str:
        module = self.module(name)
        weight, bias = f"{name}.conv2d.weight", f"{name}.conv2d.bias"
        return self.add("Conv", self.padded(maps, module.reach), weight, bias, strides=list(module.conv2d.stride))

    def doubled(self, maps: str, name: str) -> str:
        conv = self.module(name).conv2d
        fold = self.numbers(np.kron(DOUBLED, DOUBLED).T)
        flat = self.add("Reshape", f"{name}.conv2d.weight", self.numbers([conv.out_channels, conv.in_channels, 9]))
        folded = self.add("MatMul", self.add("Transpose", flat, perm=[1, 0, 2]), fold)
        weight = self.add("Reshape", folded, self.numbers([conv.in_channels, conv.out_channels, 4, 4]))
        edged = self.padded(maps, 1, "edge")
        return self.add(
            "ConvTranspose", edged, weight, f"{name}.conv2d.bias", strides=[2, 2], pads=[3] * 4
        )  # fmt: skip

    def last(self, maps: str) -> str:
        conv, (rows, columns) = self.module("deconv3").conv2d, BLOCK
        outputs, many = conv.out_channels, rows * columns
        single = self.add("Unsqueeze", "deconv3.conv2d.weight", self.numbers([1]))
        places = [
            self.add("Pad", single, self.numbers([0, 0, 0, y, x, 0, 0, 0, rows - 1 - y, columns - 1 - x]))
            for y in range(rows)
            for x in range(columns)
        ]
        kernel = [size + more - 1 for size, more in zip(conv.kernel_size, BLOCK, strict=True)]
        weight = self.add("Concat", *places, axis=1)
        weight = self.add("Reshape", weight, self.numbers([outputs * many, conv.in_channels, *kernel]))
        bias = self.add(
            "Expand", self.add("Unsqueeze", "deconv3.conv2d.bias", self.numbers([1])), self.numbers([1, many])
        )
        bias = self.add("Reshape", bias, self.numbers([-1]))
        blocks = self.add("Conv", self.padded(maps, conv.kernel_size[0] // 2), weight, bias, strides=list(BLOCK))
        size = self.add("Shape", blocks, start=2, end=4)
        split = self.add("Concat", self.numbers([-1, outputs, rows, columns]), size, axis=0)
        laid = self.add("Transpose", self.add("Reshape", blocks, split), perm=[0, 1, 4, 2, 5, 3])
        sides = self.add("Mul", size, self.numbers([rows, columns]))
        return self.add("Reshape", laid, self.add("Concat", self.numbers([-1, outputs]), sides, axis=0))

    def normed(self, maps: str, name: str, relu: bool = False) -> str:
        scale, shift = (
            self.add("Reshape", self.add("MatMul", "style_weights", f"{name}.{part}"), self.numbers([-1]))
            for part in ("weight", "bias")
        )
        channels = self.net.get_submodule(name).get_parameter("weight").shape[1]
        apart = self.add("Reshape", maps, self.numbers([1, -1, 0, 0]))
        normed = self.add("InstanceNormalization", apart, scale, shift, epsilon=EPS)
        normed = self.add("Relu", normed) if relu else normed
        return self.add("Reshape", normed, self.numbers([-1, channels, 0, 0]))

    def module(self, name: str) -> Convolution:
        module = self.net.get_submodule(name)
        assert isinstance(module, Convolution)
        return module
