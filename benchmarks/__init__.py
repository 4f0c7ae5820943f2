"""Benchmarks: ours beside reference and peers, with the limit of the machine beside each figure.

Run with ``python -m benchmarks [ROW ...]`` from the root of the repository.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / ".bench"
"""Generated inputs, environments of peers and outputs of runs; safe to delete."""
