"""Tables for a terminal, as text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from afterimage.models.layers import LayerInfo


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return rows under a header, columns aligned; those named in `right` to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    buffer = io.StringIO()
    # Wide enough for any row: what is piped into another program must not be cut.
    Console(file=buffer, width=10_000, highlight=False).print(table, markup=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def layer_table(layers: Sequence[LayerInfo]) -> str:
    """Return the table of a network's layers."""
    rows = []
    for layer in layers:
        field = layer.receptive_field
        seen = "unknown" if field is None else f"{field.height}×{field.width}"
        rows.append((layer.name, layer.type, "×".join(map(str, layer.shape)), seen, f"{layer.parameters:,}"))
    return text_table(("layer", "type", "shape", "receptive field", "parameters"), rows, right=("parameters",))


def status_table(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what `status` found."""
    rows = [
        (
            job["job"],
            job["model"],
            f"{job['shards']:,} of {job['shards_planned']:,}",
            f"{job['rows']:,} of {job['rows_planned']:,}",
            ", ".join(f"{count:,} {name}" for name, count in job["statuses"].items()),
        )
        for job in jobs
    ]
    return text_table(("job", "model", "shards", "images", "status"), rows)
