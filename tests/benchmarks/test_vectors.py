"""The rows of neighbors and components: what they declare, and that all configurations agree at a small size."""

import numpy as np
import pytest

from benchmarks.outcome import arrays
from benchmarks.row import Row
from benchmarks.vectors import rows, strangers, vectors
from benchmarks.worker import load

QUICK = list(rows(quick=True))


def test_rows_have_names_of_their_own_and_the_sizes_asked_for() -> None:
    full = {row.name: row.items for row in rows(quick=False)}
    assert full == {"vectors.neighbors": 50_000, "vectors.pca": 100_000, "vectors.pca.loose": 100_000}
    assert [row.name for row in QUICK] == list(full)


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_configurations_agree(row: Row) -> None:
    found = {}
    for one in row.configurations:
        if one.setup.endswith(":faiss_neighbors"):
            pytest.importorskip("faiss")
        found[one.name] = arrays(load(one.setup, {**one.params, "count": 600})())
    expected = found.pop(row.ours.name)
    for name, outputs in found.items():
        assert row.agreement.holds(row.agreement.distance(outputs, expected)), name


def test_strangers_are_counted_whatever_the_order() -> None:
    ids = np.array([[1, 2], [0, 2]])
    assert strangers({"ids": ids[:, ::-1]}, {"ids": ids}) == 0
    assert strangers({"ids": np.array([[1, 3], [0, 2]])}, {"ids": ids}) == 0.25


def test_vectors_are_rectified_and_the_same_each_time() -> None:
    made = vectors(50, 16)
    assert made.dtype == np.float32
    assert made.min() == 0
    assert (made == vectors(50, 16)).all()
