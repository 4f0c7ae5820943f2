"""The tables that a person reads; everything in them comes from the records."""

from collections.abc import Sequence
from typing import Any

HEADER = ("configuration", "median", "spread", "ratio", "units", "GB/s", "TFLOP/s", "share", "memory", "rate")


def table(record: dict[str, Any]) -> str:
    """One row of the benchmark as text: a line per configuration, then what was reported about each."""
    timed = [entry for entry in record["configurations"] if entry["role"] != "oracle"]
    text = [f"{record['row']}: {record['title']}", *_aligned(HEADER, [_cells(record, entry) for entry in timed], 1)]
    for entry in record["configurations"]:
        text += _notes(entry)
    return "\n".join(text)


def _cells(record: dict[str, Any], entry: dict[str, Any]) -> tuple[str, ...]:
    if "median" not in entry:
        return (entry["name"], entry["status"], *[""] * (len(HEADER) - 2))
    ratio = "" if entry["status"] == "ok" else entry["status"]
    if "ratio" in entry:
        ratio = f"{entry['ratio']:.2f} ± {entry['ratio_spread']:.2f}"
    return (
        entry["name"],
        duration(entry["median"]),
        f"{100 * entry['spread'] / entry['median']:.0f} %",
        "ours" if ratio == "1.00 ± 0.00" and entry["role"] == "ours" else ratio,
        f"{entry['units']:.2f}" if "units" in entry else "",
        *_speed(entry),
        f"{entry['peak_memory'] / 2**20:.0f} MiB" if entry["peak_memory"] else "",
        f"{entry['items_per_second']:.4g} {record['item']}/s",
    )


def _speed(entry: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"{entry['bandwidth'] / 1e9:.3g}" if entry.get("bandwidth") else "",
        f"{entry['rate'] / 1e12:.3g}" if entry.get("rate") else "",
        f"{100 * entry['share']:.0f} % {entry['limit']}" if "share" in entry else "",
    )


def _notes(entry: dict[str, Any]) -> list[str]:
    notes = []
    if entry["error"]:
        notes.append(f"  {entry['name']}: {entry['status']}: {entry['error']}")
    if entry.get("distance") is not None and entry["status"] == "ok":
        notes.append(f"  {entry['name']}: outputs differ by {entry['distance']:.2g}")
    if entry.get("figures"):
        figures = ", ".join(f"{name} {value:.4g}" for name, value in entry["figures"].items())
        notes.append(f"  {entry['name']}: {figures}")
    return notes


def summary(records: Sequence[dict[str, Any]]) -> str:
    """All rows of a run as text: a line each, with our time and speed, and the others' times as multiples of ours."""
    labels = list(dict.fromkeys(label for record in records for label in record["labels"]))
    others = list(dict.fromkeys(entry["name"] for record in records for entry in _split(record)[1]))
    lines = []
    for record in records:
        ours, rest = _split(record)
        cells = {entry["name"]: _times(entry) for entry in rest}
        lines.append(
            (
                *(record["labels"].get(label, "") for label in labels),
                duration(ours["median"]) if ours["status"] == "ok" else ours["status"],
                *_speed(ours),
                *(cells.get(name, "") for name in others),
            )
        )
    return "\n".join(_aligned((*labels, "ours", "GB/s", "TFLOP/s", "share", *others), lines, len(labels)))


def _split(record: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ours, and the others that are timed."""
    timed = [entry for entry in record["configurations"] if entry["role"] != "oracle"]
    ours = next(entry for entry in timed if entry["role"] == "ours")
    return ours, [entry for entry in timed if entry is not ours]


def _times(entry: dict[str, Any]) -> str:
    return f"{entry['ratio']:.2f} ×" if "ratio" in entry else str(entry["status"])


def _aligned(header: tuple[str, ...], lines: list[tuple[str, ...]], left: int) -> list[str]:
    """Indented columns, the first `left` of them aligned to the left; the others only where they say something."""
    shown = [index for index in range(len(header)) if index < left or any(line[index] for line in lines)]
    widths = {index: max(len(line[index]) for line in (header, *lines)) for index in shown}
    return [
        "  " + "  ".join(_pad(line[index], widths[index], index < left) for index in shown).rstrip()
        for line in (header, *lines)
    ]


def _pad(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def duration(seconds: float) -> str:
    """Seconds with three figures, in the unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def machine(described: dict[str, Any], limits: dict[str, dict[str, float]]) -> str:
    """The machine and its limits as text."""
    load = described["load_average"][0]
    lines = [
        f"{described['processor']}, {described['cores']} cores, load {load:.1f}, commit {described['commit'][:12]}"
    ]
    for threads, limit in limits.items():
        where = "on the GPU" if threads == "cuda" else f"with {threads} threads"
        rates = ", ".join(f"{name} {limit[name] / 1e12:.3f} TFLOP/s" for name in ("fp32", "bf16"))
        lines.append(f"limits {where}: copy {limit['copy'] / 1e9:.1f} GB/s, {rates}")
    return "\n".join(lines)
