"""Receptive fields: which pixels of the network's input a position of a layer can see.

Each value of a forward pass carries the interval of rows and of columns that it depends on; a convolution or pooling
widens intervals, branches and residual joins unite them, views move them along. So the result follows from what the
network computes, whatever modules or functions it is written in. What cannot be followed is unknown, not guessed.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from .intervals import Call, Field, compact, propagate, unknown


@dataclass(frozen=True)
class ReceptiveField:
    """What one position of a layer sees, in pixels of the network's input, united over channels.

    Position (i, j) sees `height` rows from top + i · stride_y and `width` columns from left + j · stride_x. Padding
    counts as pixels: `top` and `left` may be negative. A layer that sees the whole image has strides of 0.
    """

    height: int
    width: int
    stride_y: int
    stride_x: int
    top: int
    left: int


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which the forward pass of `image`, `(1, 3, H, W)`, carries intervals along."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = (image.shape[-2], image.shape[-1])
        self.fields: Any = WeakTensorKeyDictionary()
        self.lost = False
        rows, columns = (torch.arange(side, dtype=torch.float32, device=image.device) for side in self.size)
        rows, columns = rows[:, None].expand(image.shape), columns.expand(image.shape)
        self.fields[image] = Field((rows, -rows, columns, -columns), (1.0, 1.0))

    def receptive_field(self, output: Tensor) -> ReceptiveField | None:
        """Return the receptive field of a layer's output, `(1, C, H, W)` or `(1, C)`; None where it is unknown."""
        field = self.fields.get(output)
        if field is None or self.lost:
            return None
        with _disable_current_modes():
            rows, columns = (self._axis(field, axis) for axis in (0, 1))
        if rows is None or columns is None:
            return None
        return ReceptiveField(rows[0], columns[0], rows[1], columns[1], rows[2], columns[2])

    def _axis(self, field: Field, axis: int) -> tuple[int, int, int] | None:
        """Return size, stride and start along rows (0) or columns (1)."""
        first, last = (_regular(field, bound) for bound in (2 * axis, 2 * axis + 1))
        if first is None or last is None:
            return None
        if math.isinf(first) or math.isinf(last):
            return (self.size[axis], 0, 0) if first == last else None
        stride = int(field.steps[axis]) if field.bounds[0].ndim == 4 else 0
        return int(-last - first) + 1, stride, int(first)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record the fields of what it returns."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = {id(tensor): self.fields[tensor] for tensor in tensors if tensor in self.fields}
        result = func(*args, **kwargs)
        if not inputs:
            return result
        arguments = {
            a.name: args[index] if index < len(args) else kwargs.get(a.name, a.default_value)
            for index, a in enumerate(func._schema.arguments)
        }
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for a in func._schema.arguments:
            if a.alias_info and a.alias_info.is_write:
                self._check_write(arguments[a.name], inputs)
        fields = propagate(Call(func, arguments, inputs, outputs[0].shape, self.size)) if outputs else []
        for index, output in enumerate(outputs):
            field = fields[index] if isinstance(fields, list) and fields else fields
            if isinstance(field, Field) and field.bounds[0].shape == output.shape:
                self.fields[output] = unknown([field], output) if field.whole(0, 1) else field
            elif field is None or isinstance(field, Field):
                self.fields[output] = unknown(inputs.values(), output)
        return result

    def _check_write(self, target: Any, inputs: dict[int, Field]) -> None:
        # what is written through a view shows in tensors that this record does not reach
        if not isinstance(target, Tensor) or set(inputs) == {id(target)}:
            return
        storage = target.untyped_storage()
        partial = storage.nbytes() != target.numel() * target.element_size()
        address = storage.data_ptr()
        aliases = (o is not target and o.untyped_storage().data_ptr() == address for o in self.fields)
        self.lost = self.lost or partial or any(aliases)


def _regular(field: Field, index: int) -> float | None:
    """Return a bound at the first position if it grows by the same step from position to position."""
    bound = field.bounds[index]
    values = compact(bound)
    if not bound.numel():
        return None
    if bound.ndim == 4:
        values = values.amin((0, 1))
        expected = field.grid(values[:1, :1], index, *bound.shape[2:])
    else:
        expected = values.flatten()[:1]
    first = float(values.flatten()[0])
    regular = bool((values == expected).all())
    return first if regular and first != math.inf else None
