"""t-SNE keeps neighbors together, the same each time, and places new points without moving the others."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from afterimage import UsageError
from afterimage.vectors.pca import components, moments
from afterimage.vectors.tsne import fitting_perplexity, placed, tsne


@pytest.fixture(scope="module")
def digits():
    """Scores, labels and the map of scikit-learn's digits, but for each fifth."""
    images, labels = load_digits(return_X_y=True)
    found = components(moments([images[np.arange(len(images)) % 5 != 0]]), 50)
    scores, old = found.scores(images), np.arange(len(images)) % 5 != 0
    return scores, labels, old, tsne(scores[old], 30)


def agreement(layout: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of points whose five nearest others on the map outvote no label but their own."""
    nearest = KNeighborsClassifier(5).fit(layout, labels).kneighbors(return_distance=False)
    votes = labels[nearest]
    return float(
        np.mean([np.bincount(one, minlength=10).argmax() == label for one, label in zip(votes, labels, strict=True)])
    )


def test_digits_lie_among_their_like(digits):
    _, labels, old, layout = digits
    assert agreement(layout, labels[old]) >= 0.95


def test_new_digits_are_placed_among_their_like_and_each_for_itself(digits):
    scores, labels, old, layout = digits
    before = layout.copy()
    found = placed(scores[old], layout, scores[~old], 30)
    assert (layout == before).all()
    assert KNeighborsClassifier(5).fit(layout, labels[old]).score(found, labels[~old]) >= 0.95
    alone = placed(scores[old], layout, scores[~old][:7], 30)
    # the same points among others: sums over them are made in another order
    assert np.abs(alone - found[:7]).max() < 1e-3 * np.abs(layout).max()


def test_the_map_is_the_same_each_time(digits):
    scores = digits[0][:120]
    assert (tsne(scores, 10) == tsne(scores, 10)).all()


def test_perplexity_fits_the_number_of_points():
    assert fitting_perplexity(1000, None) == 30
    assert fitting_perplexity(31, None) == 10
    assert fitting_perplexity(31, 10) == 10
    with pytest.raises(UsageError, match="perplexity: expected 1 to 10, a third of the other images, got 11"):
        fitting_perplexity(31, 11)
    with pytest.raises(UsageError, match="t-SNE: expected at least 7 images, got 3; use --method pca"):
        fitting_perplexity(3, None)


def test_few_points_and_few_dimensions_have_a_map():
    random = np.random.default_rng(0)
    assert np.isfinite(tsne(random.normal(size=(7, 1)), 2)).all()
    with pytest.raises(UsageError, match="all vectors are alike"):
        tsne(np.zeros((20, 3)), 5)
