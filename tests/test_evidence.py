"""Evidence against objects and against other evidence: known answers, and slow re-derivations."""

import numpy as np
import pytest
import torch

from afterimage.evidence.objects import coverage, of_boxes, of_mask
from afterimage.evidence.pointing import center_guess, inside, near, pointing_game
from afterimage.evidence.spectral import apartness, clusters, profiles


def covered(boxes, crop, height, width):
    return torch.from_numpy(coverage(of_boxes(boxes), crop, height, width))[None]


def test_a_box_is_mapped_through_the_crop():
    # The network saw x from 100 to 300 and y from 50 to 150 on 10 × 20 pixels: one is 10 × 10 of the original.
    found = coverage(of_boxes([(120, 65, 205, 200)]), (100, 50, 300, 150), 10, 20)
    expected = np.zeros((10, 20), np.float32)
    expected[1:, 2:11] = 1
    expected[1] *= 0.5
    expected[:, 10] *= 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_the_crop_cuts_away_does_not_count():
    crop = (100.0, 100.0, 200.0, 200.0)
    assert coverage(of_boxes([(50, 50, 150, 150)]), crop, 10, 10).sum() == pytest.approx(25)
    assert coverage(of_boxes([(0, 0, 100, 300)]), crop, 10, 10).sum() == 0
    # Padded: the network saw beyond the picture, where nothing lies.
    found = coverage(of_mask(np.ones((10, 20), np.bool_)), (-10, 0, 30, 10), 5, 20)
    np.testing.assert_array_equal(found, np.repeat([[0] * 5 + [1] * 10 + [0] * 5], 5, 0))


def test_a_union_counts_each_place_once():
    random = np.random.default_rng(0)
    boxes = [tuple(sorted(x)) + tuple(sorted(y)) for x, y in random.integers(0, 60, (5, 2, 2))]
    boxes = [(x0, y0, x1 + 1, y1 + 1) for x0, x1, y0, y1 in boxes]
    mask = np.zeros((61, 61), np.bool_)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    crop = (3.25, -4.0, 50.5, 59.0)
    np.testing.assert_allclose(coverage(of_boxes(boxes), crop, 13, 9), coverage(of_mask(mask), crop, 13, 9), atol=1e-6)


def test_coverage_is_the_mean_of_fine_samples():
    random = np.random.default_rng(1)
    mask = random.random((40, 30)) < 0.3
    crop, height, width, fine = (-2.3, 4.1, 25.2, 44.6), 6, 7, 200
    x, y = ((np.arange(n * fine) + 0.5) / (n * fine) for n in (width, height))
    x, y = crop[0] + x * (crop[2] - crop[0]), crop[1] + y * (crop[3] - crop[1])
    within = np.outer((y >= 0) & (y < 40), (x >= 0) & (x < 30))
    sampled = mask[np.clip(y.astype(int), 0, 39)][:, np.clip(np.floor(x).astype(int), 0, 29)] & within
    expected = sampled.reshape(height, fine, width, fine).mean((1, 3))
    # Each of about 7 edges within a pixel is placed to 1 / 200 of it.
    np.testing.assert_allclose(coverage(of_mask(mask), crop, height, width), expected, atol=0.02)


def test_a_uniform_heatmap_has_the_share_of_the_area():
    object_ = covered([(3, 1, 8, 6)], (0, 0, 16, 12), 12, 16)
    found = inside(torch.full((1, 1, 12, 16), 0.3), object_)
    assert found.item() == pytest.approx(25 / 192, rel=1e-6)
    assert found.item() == pytest.approx(object_.mean().item(), rel=1e-6)


def test_only_positive_evidence_counts_and_gradients_by_their_magnitude():
    object_ = covered([(0, 0, 1, 2)], (0, 0, 2, 2), 2, 2)
    heatmap = torch.tensor([[3.0, 1.0], [-7.0, -1.0]])[None, None]
    assert inside(heatmap, object_).item() == 0.75
    gradient = torch.stack([heatmap[:, 0], torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)], 1)
    assert inside(gradient, object_).item() == pytest.approx(10 / 12)
    assert inside(-heatmap.abs(), object_).isnan()


def test_evidence_in_one_pixel_is_a_hit_or_a_miss():
    masks = torch.zeros(1, 32, 32)
    masks[0, 10:14, 10:14] = 1
    for (row, column), hit in {(11, 12): True, (17, 11): True, (18, 11): False, (17, 17): False}.items():
        heatmap = torch.zeros(1, 1, 32, 32)
        heatmap[0, 0, row, column] = 1
        assert pointing_game(heatmap, masks, 4).tolist() == [hit]
        assert inside(heatmap, masks).item() == ((row, column) == (11, 12))
    assert pointing_game(torch.ones(1, 1, 32, 32), masks, 32).tolist() == [False]
    assert pointing_game(torch.full((1, 1, 32, 32), torch.nan), masks, 32).tolist() == [False]
    # The middle is pixel (16, 16), √18 from the corner of the mask.
    assert center_guess(masks, 5).tolist() == [True]
    assert center_guess(masks, 4).tolist() == [False]


def test_near_is_by_distance_and_three_percent_of_the_longer_side():
    masks = torch.zeros(1, 128, 64)
    masks[0, 50:54, 20:30] = 0.1
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(64), indexing="ij")
    beyond = [(50 - rows).clamp(0) + (rows - 53).clamp(0), (20 - columns).clamp(0) + (columns - 29).clamp(0)]
    found = near(masks.expand(128 * 64, -1, -1), torch.arange(128 * 64)).reshape(128, 64)
    assert torch.equal(found, beyond[0] ** 2 + beyond[1] ** 2 <= 4**2)


def blobs(count, places, seed):
    """Maps of noise, each with a bright square at one of the places."""
    maps = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    for number in range(count):
        y, x = places[number % len(places)]
        maps[number, 0, y - 4 : y + 4, x - 4 : x + 4] += 3
    return maps


def test_profiles_are_shares_by_place():
    heatmaps = torch.rand(3, 1, 20, 33) - 0.3
    found = profiles(heatmaps)
    assert found.shape == (3, 256)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    torch.testing.assert_close(profiles(7 * heatmaps), found)
    assert profiles(torch.zeros(1, 1, 4, 4)).isnan().all()


def test_a_few_maps_that_look_elsewhere_are_an_outlying_cluster():
    # Fifty on the object in the middle, six on a source tag at the lower left, as in the paper's horses.
    maps = torch.cat([blobs(50, [(16, 16)], 0), blobs(6, [(27, 5)], 1)])
    found = clusters(profiles(maps).numpy())
    assert found is not None
    assert found.members.tolist() == [0] * 50 + [1] * 6
    assert found.outlying == [1]
    assert found.eigenvalues[1] == pytest.approx(0, abs=1e-9)  # two components of the graph, by theory


def test_kinds_of_equal_size_are_clusters_and_none_is_outlying():
    found = clusters(profiles(blobs(60, [(8, 8), (24, 8), (16, 24)], 2)).numpy())
    assert found is not None
    assert sorted(np.bincount(found.members)) == [20, 20, 20]
    assert found.outlying == []


def test_alike_maps_are_one_cluster_and_a_handful_none():
    found = clusters(profiles(torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))).numpy())
    assert found is not None
    assert (found.members.max(), found.outlying) == (0, [])
    assert clusters(profiles(blobs(7, [(16, 16)], 3)).numpy()) is None


def test_apartness_is_one_by_chance_and_large_for_a_class_that_looks_elsewhere():
    maps = torch.cat([blobs(90, [(10, 10), (20, 20), (10, 20)], 4), blobs(30, [(27, 5)], 5)])
    classes = np.array([number // 3 % 3 for number in range(90)] + [3] * 30)
    found = apartness(profiles(maps).numpy(), classes)
    assert found[3] == pytest.approx(119 / 29)  # all neighbors its own, against 29 of 119 by chance
    assert np.abs(found[:3] - 119 / 89).max() < 0.4  # chance among the 90 that are left
    assert np.isnan(apartness(profiles(maps[:4]).numpy(), np.array([0, 0, 1, 0]))[1])
