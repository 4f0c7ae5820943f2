"""What a method knows of an item beside its result, as columns of the table.

Values     <field> float32
Curve      <field> list of float32, as long as the item took part
Classes    <field> string, the class's name
Boxes      <field>_x0, _y0, _x1, _y1 int32, in network-input pixels
ClassGrid  <field> list of int32, row by row, with <field>_rows and <field>_columns
Images     <field> picture: struct of bytes and path
Diverged   no column: it is the row's status
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from torch import Tensor

from afterimage.registry import Detail

if TYPE_CHECKING:
    from .rows import Keep

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BOX = ("x0", "y0", "x1", "y1")


def columns(detail: Detail, keep: "Keep") -> list[tuple[str, pa.DataType]]:
    """Return a detail's columns: figures always, class grids with the maps, pictures with the pictures."""
    name = detail.name
    match detail.kind.name:
        case "values":
            return [(name, pa.float32())]
        case "curve":
            return [(name, pa.list_(pa.float32()))]
        case "class":
            return [(name, pa.string())]
        case "boxes":
            return [(f"{name}_{corner}", pa.int32()) for corner in BOX]
        case "class_grid" if keep != "none":
            return [(name, pa.list_(pa.int32())), (f"{name}_rows", pa.int32()), (f"{name}_columns", pa.int32())]
        case "images" if keep == "all":
            return [(name, PICTURE)]
    return []


def cells(detail: Detail, value: Tensor, categories: Sequence[str] = ()) -> dict[str, Any]:
    """Return one item's entries in the columns of a detail that is no picture, from its part of the tensor.

    A figure that is not finite, as a diverged item has them, is left empty.
    """
    name = detail.name
    match detail.kind.name:
        case "values":
            return {name: float(value) if bool(value.isfinite()) else None}
        case "curve":
            return {name: whole(value).float().numpy()}
        case "class":
            return {name: categories[int(value)] if categories else str(int(value))}
        case "boxes":
            y0, x0, y1, x1 = value.tolist()
            return dict(zip((f"{name}_{corner}" for corner in BOX), (x0, y0, x1, y1), strict=True))
        case "class_grid":
            rows, across = value.shape
            return {name: value.flatten().numpy(), f"{name}_rows": rows, f"{name}_columns": across}
        case "diverged":
            return {}
    raise ValueError(f"{name}: a detail of kind {detail.kind.name!r} has no cells")


def finite(detail: Detail, value: Tensor) -> bool:
    """Whether a detail's part is finite; a curve may end in NaN, where the item had ended."""
    if detail.kind.name == "curve":
        return bool(value[len(whole(value)) :].isnan().all())
    return bool(value.isfinite().all())


def whole(curve: Tensor) -> Tensor:
    """Return a curve `(T,)` up to its first value that is not finite."""
    odd = (~curve.isfinite()).nonzero()
    return curve[: int(odd[0])] if len(odd) else curve
