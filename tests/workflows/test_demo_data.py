"""The embedded data set: what it promises about places, masks, classes, bias and bytes."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from afterimage.errors import UsageError
from afterimage.models.demo import CATEGORIES, PLANTED, SIZE
from afterimage.workflows.demo.backgrounds import BACKGROUNDS
from afterimage.workflows.demo.outlines import OUTLINES
from afterimage.workflows.demo.shapes import draw
from afterimage.workflows.demo.train import data_set
from afterimage.workflows.demo.write import write


def test_every_class_has_an_outline() -> None:
    assert tuple(OUTLINES) == CATEGORIES
    assert len(CATEGORIES) >= 12


def test_a_picture_follows_from_seed_and_index() -> None:
    first, again, other = draw(5, 9), draw(5, 9), draw(5, 10)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first[2:] == again[2:]
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (SIZE, SIZE, 3)
    assert first.image.dtype == np.uint8
    assert first.mask.dtype == np.bool_


def test_labels_backgrounds_and_masks_are_the_documented_ones() -> None:
    digest = hashlib.sha256()
    for index in range(2 * len(CATEGORIES)):
        sample = draw(index, 3)
        digest.update(f"{sample.label} {sample.background} ".encode() + np.packbits(sample.mask).tobytes())
    assert digest.hexdigest() == "184133efc07f414a35f7b651c78fd7f98a7c8c971d617874d11c1074dea06a32"


@pytest.mark.parametrize("name", CATEGORIES)
def test_the_mask_is_where_the_object_is_drawn(name: str) -> None:
    for index in range(4):
        label = CATEGORIES.index(name)
        full, empty = draw(index, 4, label=label), draw(index, 4, label=label, empty=True)
        changed = (full.image != empty.image).any(2)
        assert not (changed & ~full.mask).any()
        assert changed[full.mask].mean() > 0.95  # paint may equal the ground in some pixels
        assert np.array_equal(full.mask, empty.mask)


def test_objects_are_small_whole_and_all_over_the_picture() -> None:
    masks = np.stack([draw(index, 5).mask for index in range(140)])
    areas = masks.mean((1, 2))
    assert 0.02 < np.median(areas) < 0.1
    assert np.mean(areas <= 0.1) > 0.95
    assert areas.min() > 0.005
    assert not masks[:, [0, -1]].any()
    assert not masks[:, :, [0, -1]].any()
    quarters = masks.reshape(-1, 2, SIZE // 2, 2, SIZE // 2).any((2, 4)).mean(0)
    assert quarters.min() > 0.2


def test_classes_are_balanced_and_snow_is_planted() -> None:
    count = 60 * len(CATEGORIES)
    kinds = [(sample.label, sample.background) for sample in (draw(index, 6) for index in range(count))]
    planted = CATEGORIES.index(PLANTED)
    labels = np.array([label for label, _ in kinds])
    snowy = np.array([background == "snow" for _, background in kinds])
    assert (np.bincount(labels) == 60).all()
    assert snowy[labels == planted].mean() > 0.85  # 0.95 expected
    assert snowy[labels != planted].mean() < 0.03  # 0.01 expected
    assert {background for _, background in kinds} == set(BACKGROUNDS)


def test_a_forced_background_leaves_object_and_clutter_in_place() -> None:
    plain, snowed = draw(3, 7, background="sand"), draw(3, 7, background="snow")
    assert np.array_equal(plain.mask, snowed.mask)
    assert (plain.label, snowed.background) == (snowed.label, "snow")
    with pytest.raises(UsageError, match="no background 'snwo'; nearest: snow"):
        draw(3, 7, background="snwo")


def test_a_data_set_does_not_depend_on_the_number_of_processes() -> None:
    alone, together = data_set(8, 20), data_set(8, 20, processes=2)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_written_files_hold_the_pictures_and_stay(tmp_path: Path) -> None:
    images = write(tmp_path, 30, seed=3)
    files = sorted(path.relative_to(images) for path in images.rglob("*.png"))
    assert len(files) == 30
    assert {path.parts[0] for path in files} == set(CATEGORIES)
    for index in (0, 17):
        sample = draw(index, 3)
        name = f"{CATEGORIES[sample.label]}/{index:05}.png"
        assert np.array_equal(cv2.imread(str(images / name))[..., ::-1], sample.image)
        mask = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, sample.mask * np.uint8(255))
    kept, damaged = images / files[0], images / files[1]
    before, content = kept.stat().st_mtime_ns, damaged.read_bytes()
    damaged.write_bytes(b"")
    write(tmp_path, 30, seed=3)
    assert kept.stat().st_mtime_ns == before
    assert damaged.read_bytes() == content
