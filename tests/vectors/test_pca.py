"""Principal components are those of a full decomposition in float64, however the vectors were divided."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from afterimage.vectors.pca import Components, Moments, components, moments


def vectors(count: int, size: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return vectors with a falling spectrum, as float32."""
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.normal(size=(size, size)))[0]
    spread = np.arange(1, size + 1) ** -0.7
    return ((random.normal(size=(count, size)) * spread) @ turned + mean).astype(np.float32)


def reference(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return axes, variances and scores as scikit-learn finds them in float64."""
    found = PCA(count, svd_solver="full").fit(values.astype(np.float64))
    return found.components_, found.explained_variance_, found.transform(values.astype(np.float64))


def assert_same(found: Components, values: np.ndarray, tolerance: float) -> None:
    axes, variances, scores = reference(values, len(found.axes))
    signs = np.sign((axes * found.axes).sum(1))[:, None]
    assert np.abs(found.axes - signs * axes).max() < tolerance
    assert np.abs(found.variances / variances - 1).max() < tolerance
    assert np.abs(found.scores(values) - scores * signs.T).max() < tolerance * np.abs(scores).max()
    assert found.total == pytest.approx(values.astype(np.float64).var(0, ddof=1).sum(), rel=tolerance)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_components_equal_a_full_decomposition(mean):
    values = vectors(10_000, 512, mean)
    assert_same(components(moments([values]), 50), values, 1e-6)


def test_merged_moments_give_the_same_in_any_order():
    values = vectors(3000, 64, 50.0)
    parts = [moments([part]) for part in np.split(values, [1, 700, 701, 1500])]
    whole = moments([values])
    for order in ([0, 1, 2, 3, 4], [4, 1, 3, 0, 2]):
        first, *others = (parts[number] for number in order)
        merged = sum(others, first)
        assert merged.count == whole.count
        assert np.abs(merged.mean - whole.mean).max() < 1e-12
        lower = np.tril_indices(64)
        assert np.abs(merged.gram - whole.gram)[lower].max() < 1e-10 * whole.gram.max()
        assert_same(components(merged, 20), values, 1e-8)


def test_the_sizes_of_parts_do_not_matter_to_a_bit():
    values = vectors(5000, 16)
    whole, divided = moments([values]), moments(np.split(values, range(0, 5000, 37)))
    assert whole.count == divided.count
    assert (whole.mean == divided.mean).all()
    assert (whole.gram == divided.gram).all()


def test_halves_are_taken_as_they_are():
    values = vectors(400, 24).astype(np.float16)
    assert_same(components(moments([values]), 8), values, 1e-9)


def test_moments_are_not_changed_by_merging():
    one, other = moments([vectors(9, 4)]), moments([vectors(7, 4, seed=1)])
    before = one.gram.copy(), other.gram.copy()
    _ = one + other
    assert (one.gram == before[0]).all()
    assert (other.gram == before[1]).all()


def test_few_and_equal_vectors_have_few_components():
    assert len(components(moments([vectors(3, 10)]), 50).axes) == 2
    alone = components(moments([vectors(1, 10)]), 2)
    assert (alone.variances == 0).all()
    assert alone.scores(vectors(1, 10)) == pytest.approx(0)
    same = components(moments([np.ones((20, 5), np.float32)]), 2)
    assert same.total == 0
    assert isinstance(moments([np.ones((2, 3))]), Moments)
    with pytest.raises(ValueError, match="expected vectors, got none"):
        moments([])
