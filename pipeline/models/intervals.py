"""Interval rules: what each aten operation does to the rows and columns of the input that a value depends on."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Field(NamedTuple):
    """Per value of a tensor: first row, −last row, first column, −last column; a union is thus a minimum.

    −inf: the whole image; +inf: no pixel; NaN: unknown.
    """

    bounds: tuple[Tensor, ...]
    steps: tuple[float, float]
    """Rows and columns between neighboring positions; NaN if irregular."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "Field":
        """Return the field with a function applied to each bound."""
        return self._replace(bounds=tuple(change(bound) for bound in self.bounds))

    def grid(self, first: Tensor, index: int, height: int, width: int) -> Tensor:
        """Return a bound as it follows regularly from the first position's, `(…, 1, 1)`.

        It broadcasts to `(…, height, width)`.
        """
        step = self.steps[index // 2] * (-1 if index % 2 else 1)
        positions = torch.arange(height if index < 2 else width, dtype=torch.float32, device=first.device)
        grown = first + step * (positions[:, None] if index < 2 else positions)
        return torch.where(first.isinf(), first, grown)

    def whole(self, *axes: int) -> bool:
        """Return whether all values see all rows (0), all columns (1)."""
        bounds = [bound for axis in axes for bound in self.bounds[2 * axis : 2 * axis + 2]]
        return all(bool((compact(bound) == -math.inf).all()) for bound in bounds)


def compact(bound: Tensor) -> Tensor:
    """Return a bound without the repetitions of an expanded tensor; it broadcasts to the same shape.

    Bounds have the shape of their tensor, yet differ along one or two dimensions: this keeps the arithmetic small.
    """
    for dim in range(bound.ndim):
        if bound.stride(dim) == 0:
            bound = bound.narrow(dim, 0, min(1, bound.shape[dim]))
    return bound


class Call(NamedTuple):
    """One aten operation: its arguments by name, the fields of those that carry one, and what it returned."""

    func: Any
    arguments: dict[str, Any]
    fields: dict[int, Field]
    """By the id of the tensor."""
    shape: torch.Size
    size: tuple[int, int]
    """Height and width of the network's input."""

    def field(self, name: str) -> Field | None:
        """Return the field of an argument."""
        return self.fields.get(id(self.arguments.get(name)))

    @property
    def main(self) -> Field:
        """The field of the only argument that carries one."""
        (field,) = self.fields.values()
        return field


Result = Field | list[Field] | None
"""One field for all outputs, one for each, or None where it is unknown."""


def propagate(call: Call) -> Result:
    """Return the field of what an operation returns."""
    schema = call.func._schema
    name = schema.name.removeprefix("aten::")
    name = name.removesuffix("_") if schema.is_mutable else name
    if name in _SHAPE_ONLY:
        return []
    if all(field.whole(0, 1) for field in call.fields.values()):
        return None  # and so does the result, see `unknown`
    rule = _RULES.get(name)
    if rule is None and torch.Tag.pointwise in call.func.tags:
        rule = _pointwise
    if rule is None or (len(call.fields) > 1 and rule not in _SEVERAL):
        return None
    return rule(call)


def unknown(fields: Iterable[Field], output: Tensor) -> Field:
    """Return the field of an operation without a rule: what all its inputs see, if that is the whole image."""
    fields = list(fields)
    whole = all(field.whole(0, 1) for field in fields)
    value = fields[0].bounds[0].new_full((), -math.inf if whole else math.nan)
    return Field((value.expand(output.shape),) * 4, (0.0, 0.0) if whole else (math.nan, math.nan))


def _view(call: Call) -> Result:
    rest = dict(list(call.arguments.items())[1:])
    results = [call.func(bound, **rest) for bound in call.main.bounds]
    if isinstance(results[0], Tensor):
        return call.main._replace(bounds=tuple(results))
    return [call.main._replace(bounds=parts) for parts in zip(*results, strict=True)]


def _reshape(call: Call) -> Result:
    return call.main.each(lambda bound: bound.reshape(call.shape))


def _restride(call: Call) -> Result:
    return call.main if call.main.bounds[0].shape == call.shape else None


def _join(call: Call) -> Result:
    dim = call.arguments["dim"]
    nothing = next(iter(call.fields.values())).bounds[0].new_full((), math.inf)
    parts = [(part.shape, call.fields.get(id(part))) for part in call.arguments["tensors"]]

    def join(index: int) -> Tensor:
        bounds = [field.bounds[index] if field else nothing.expand(shape) for shape, field in parts]
        repeated = [d for d in range(bounds[0].ndim) if all(b.stride(d) == 0 for b in bounds)]
        if call.func._schema.name == "aten::cat":
            for d in set(repeated) - {dim % bounds[0].ndim}:
                bounds = [bound.narrow(d, 0, 1) for bound in bounds]
        return call.func(bounds, dim).expand(call.shape)  # type: ignore[no-any-return]

    return Field(tuple(join(index) for index in range(4)), _steps(call.fields.values()))


def _pointwise(call: Call) -> Result:
    return _union(list(call.fields.values()), call.shape)


def _union(fields: Sequence[Field], shape: torch.Size) -> Field:
    bounds = list(fields[0].bounds)
    for field in fields[1:]:
        bounds = [torch.minimum(compact(a), compact(b)) for a, b in zip(bounds, field.bounds, strict=True)]
    return Field(tuple(bound.broadcast_to(shape) for bound in bounds), _steps(fields))


def _steps(fields: Iterable[Field]) -> tuple[float, float]:
    """Return the common steps; a field that is the whole image goes with any."""
    fields = list(fields)

    def common(axis: int) -> float:
        steps = {field.steps[axis] for field in fields}
        if len(steps) > 1:
            steps = {field.steps[axis] for field in fields if not field.whole(axis)}
        return 0.0 if not steps else steps.pop() if len(steps) == 1 else math.nan

    return common(0), common(1)


def _window(
    field: Field,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
) -> Field | None:
    """Slide a window over `(N, C, H, W)`, each channel apart; lists are of height and width, or of one for both."""
    if field.bounds[0].ndim != 4:
        return None
    if set(kernel) | set(stride) == {1} and set(padding) == {0} and shape[2:] == field.bounds[0].shape[2:]:
        return field
    wider = field._replace(steps=(field.steps[0] * stride[0], field.steps[1] * stride[-1]))
    bounds = []
    for index, bound in enumerate(field.bounds):
        axis = -(index // 2)  # the last entry of a list of one is also its first
        first = compact(bound)[:, :, :1, :1]
        regular = bool((compact(bound) == field.grid(first, index, *bound.shape[2:])).all())
        reach = dilation[axis] * (kernel[axis] - 1) if index % 2 else 0
        step = field.steps[index // 2] * (-1 if index % 2 else 1)
        moved = torch.where(first.isinf(), first, first + (reach - padding[axis]) * step)
        bounds.append(wider.grid(moved if regular else moved * math.nan, index, *shape[2:]))
    channels = (*field.bounds[0].shape[:2], *shape[2:])
    return Field(tuple(bound.expand(channels) for bound in bounds), wider.steps)


def _convolution(call: Call) -> Result:
    given = call.arguments
    if given["transposed"] or given["input"].ndim != 4:
        return None
    groups, channels = given["groups"], call.shape[1]

    def unite(bound: Tensor) -> Tensor:
        shape, bound = bound.shape, compact(bound)
        if bound.shape[1] > 1:
            united = bound.view(shape[0], groups, -1, *bound.shape[2:]).amin(2)
            bound = united.repeat_interleave(channels // groups, 1)
        return bound.expand(shape[0], channels, *shape[2:])

    kernel = tuple(given["weight"].shape[2:])
    return _window(call.main.each(unite), call.shape, kernel, given["stride"], given["padding"], given["dilation"])


def _pool(call: Call) -> Result:
    given = call.arguments
    kernel = given["kernel_size"]
    stride = given["stride"] or kernel
    return _window(call.main, call.shape, kernel, stride, given["padding"], given.get("dilation", (1,)))


def _pad(call: Call) -> Result:
    pad = call.arguments["pad" if "pad" in call.arguments else "padding"]
    if not any(pad):
        return call.main
    if len(pad) not in (2, 4) or len(call.shape) != 4:
        return call.main.each(lambda bound: call.func(bound, pad, math.inf))
    # padding continues the positions outward, also where it repeats pixels
    return _window(call.main, call.shape, (1,), (1,), (pad[2] if len(pad) == 4 else 0, pad[0]))


def _adaptive(call: Call) -> Result:
    """Unite the positions of each bin; bins of one size slide as a window does, others are irregular."""
    field: Field | None = call.main
    for dim in (-2, -1):
        if field is None or field.bounds[0].ndim != 4:
            return None
        came, wanted = field.bounds[0].shape[dim], call.shape[dim]
        shape = list(field.bounds[0].shape)
        shape[dim] = wanted
        if wanted == 1 < came:
            field = _reduced(field, (dim,), call.size)
        elif came % wanted == 0:
            kernel = (came // wanted, 1) if dim == -2 else (1, came // wanted)
            field = _window(field, shape, kernel, kernel)
        else:
            field = _uneven(field, dim, wanted)
    return field


def _uneven(field: Field, dim: int, wanted: int) -> Field:
    def unite(bound: Tensor) -> Tensor:
        came = bound.shape[dim]
        bins = [(came * i // wanted, -(-came * (i + 1) // wanted)) for i in range(wanted)]
        return torch.cat([bound.narrow(dim, a, b - a).amin(dim, keepdim=True) for a, b in bins], dim)

    steps = list(field.steps)
    steps[dim] = math.nan
    return field.each(unite)._replace(steps=(steps[0], steps[1]))


def _reduced(field: Field, dims: Sequence[int], size: tuple[int, int]) -> Field:
    """Unite over dimensions, which are kept; where positions were united, the image's border ends what is seen."""
    before = [compact(bound) for bound in field.bounds]
    bounds = [bound.amin(tuple(dims), keepdim=True) for bound in before]
    steps = list(field.steps)
    for axis in (0, 1):
        first, last = bounds[2 * axis : 2 * axis + 2]
        if all(bool((bounds[i] == before[i]).all()) for i in (2 * axis, 2 * axis + 1)):
            continue
        end = 1.0 - size[axis]
        whole = (first <= 0) & (last <= end)
        bounds[2 * axis] = torch.where(whole, -math.inf, first.clamp_min(0))
        bounds[2 * axis + 1] = torch.where(whole, -math.inf, last.clamp_min(end))
        if bool((bounds[2 * axis] == bounds[2 * axis].flatten()[0]).all()):
            steps[axis] = 0.0
    ndim = field.bounds[0].ndim
    shape = [1 if d in {dim % ndim for dim in dims} else side for d, side in enumerate(field.bounds[0].shape)]
    return Field(tuple(bound.expand(shape) for bound in bounds), (steps[0], steps[1]))


def _spread(field: Field, dims: Sequence[int], call: Call) -> Field:
    return _reduced(field, dims, call.size).each(lambda bound: bound.expand(call.shape))


def _reduction(call: Call) -> Result:
    dims = call.arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    every = range(call.main.bounds[0].ndim)
    return _reduced(call.main, tuple(dims or every), call.size).each(lambda bound: bound.reshape(call.shape))


def _softmax(call: Call) -> Result:
    return _spread(call.main, (call.arguments["dim"],), call)


def _layer_norm(call: Call) -> Result:
    return _spread(call.main, tuple(range(-len(call.arguments["normalized_shape"]), 0)), call)


def _group_norm(call: Call) -> Result:
    groups = call.main.each(lambda bound: bound.reshape(len(bound), call.arguments["group"], -1))
    united = _reduced(groups, (2,), call.size)
    return united.each(lambda bound: bound.expand_as(groups.bounds[0]).reshape(call.shape))


def _batch_norm(call: Call) -> Result:
    if not call.arguments.get("training"):
        return call.main
    return _spread(call.main, (0, *range(2, len(call.shape))), call)


def _linear(call: Call) -> Result:
    return _spread(call.main, (-1,), call)


def _product(call: Call) -> Result:
    """A product of matrices unites each row of the first with each column of the second."""
    pairs = (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
    names = next(pair for pair in pairs if pair[0] in call.arguments)
    bias = call.field("self") if "self" not in names else None
    fields = [bias] if bias else []
    for name, dim in zip(names, (-1, -2), strict=True):
        if field := call.field(name):
            fields.append(_reduced(field, (dim,), call.size))
    return _union(fields, call.shape)


def _attention(call: Call) -> Result:
    dims = {"query": (-1,), "key": (-2, -1), "value": (-2, -1)}
    if not {id(call.arguments[name]) for name in dims} >= set(call.fields):
        return None
    fields = [(call.field(name), dims[name]) for name in dims]
    return _union([_reduced(field, dim, call.size) for field, dim in fields if field], call.shape)


# outputs that depend on nothing but the input's shape
_SHAPE_ONLY = {
    "new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "randn_like", "new_empty_strided",
}  # fmt: skip
_SEVERAL = {_pointwise, _join, _product, _attention}
_RULES: dict[str, Callable[[Call], Result]] = {
    **dict.fromkeys(
        ("permute", "transpose", "t", "expand", "slice", "select", "squeeze", "unsqueeze", "unbind", "split", "flip",
         "split_with_sizes", "chunk", "alias", "detach", "index", "index_select", "narrow", "repeat", "roll"),
        _view,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _reshape),
    "as_strided": _restride,
    **dict.fromkeys(("cat", "stack"), _join),
    # pointwise, at least in evaluation, without torch's tag
    **dict.fromkeys(("hardswish", "native_dropout", "_to_copy", "contiguous", "_prelu_kernel"), _pointwise),
    "convolution": _convolution,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "linalg_vector_norm"), _reduction),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        _batch_norm,
    ),
    "linear": _linear,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _product),
    **dict.fromkeys(
        ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
         "_native_multi_head_attention"),
        _attention,
    ),
}  # fmt: skip
