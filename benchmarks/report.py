"""The table that a person reads; everything in it comes from the record."""

from typing import Any

HEADER = ("configuration", "median", "spread", "ratio", "units", "share", "memory", "rate")


def table(record: dict[str, Any]) -> str:
    """One row of the benchmark as text: a line per configuration, then what was reported about each."""
    lines = [_cells(record, entry) for entry in record["configurations"]]
    timed = [HEADER, *lines]
    shown = [index for index in range(len(HEADER)) if index == 0 or any(line[index] for line in lines)]
    widths = {index: max(len(line[index]) for line in timed) for index in shown}
    text = [f"{record['row']}: {record['title']}"]
    text += ["  " + "  ".join(_pad(line[index], widths[index], index) for index in shown).rstrip() for line in timed]
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
        f"{100 * entry['share']:.0f} % {entry['limit']}" if "share" in entry else "",
        f"{entry['peak_memory'] / 2**20:.0f} MiB" if entry["peak_memory"] else "",
        f"{entry['items_per_second']:.4g} {record['item']}/s",
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
        rates = ", ".join(f"{name} {limit[name] / 1e12:.3f} TFLOP/s" for name in ("fp32", "bf16"))
        lines.append(f"limits with {threads} threads: copy {limit['copy'] / 1e9:.1f} GB/s, {rates}")
    return "\n".join(lines)


def _pad(cell: str, width: int, index: int) -> str:
    return cell.ljust(width) if index == 0 else cell.rjust(width)
