"""What becomes an input, under which key, with which label."""

import os

import pytest

from afterimage import UsageError
from afterimage.workflows import manifest
from afterimage.workflows.labels import labels_by_class, labels_for


def touch(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")


def keys(*inputs, **options):
    return [item.key for item in manifest.scan(inputs, **options)]


def test_folders_are_walked_and_other_files_left_out(tmp_path):
    touch(tmp_path, "b.JPG", "a/c.png", "a/b/d.webp", "notes.txt", ".DS_Store", "a/table.csv")
    assert keys(tmp_path) == ["a/b/d.webp", "a/c.png", "b.JPG"]


def test_names_are_percent_encoded_and_lead_back_to_the_file(tmp_path):
    names = ["ä b.png", "new\nline.png", b"not-utf8-\xff.png", "<script>.png", "100%.png", "-dash.png"]
    touch(tmp_path, *names)
    items = manifest.scan([tmp_path])
    assert all(item.key.isascii() and item.key.isprintable() for item in items)
    assert {os.path.basename(manifest.path_of(item.uri)) for item in items} == {os.fsencode(name) for name in names}
    assert all(os.path.exists(manifest.path_of(item.uri)) for item in items)


def test_lists_globs_and_single_files(tmp_path):
    touch(tmp_path, "in/a.png", "in/b.png", "in/deep/c.png", "d.data")
    (tmp_path / "in" / "list.txt").write_text("b.png\n\ndeep/c.png\nb.png\n")
    assert keys(tmp_path / "in" / "list.txt") == ["b.png", "deep/c.png"]
    assert keys(f"{tmp_path}/in/*.png") == ["a.png", "b.png"]
    assert keys(f"{tmp_path}/in/**/*.png") == ["a.png", "b.png", "deep/c.png"]
    assert keys(tmp_path / "d.data") == ["d.data"]
    (tmp_path / "in" / "up.txt").write_text(f"../d.data\n{tmp_path}/in/a.png\n")
    assert keys(tmp_path / "in" / "up.txt") == ["d.data", "in/a.png"]


def test_several_inputs_are_told_apart_by_number(tmp_path):
    touch(tmp_path, "x/a.png", "y/a.png")
    assert keys(tmp_path / "x", tmp_path / "y") == ["0/a.png", "1/a.png"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    assert keys(tmp_path / "in") == ["a.png", "link/b.png"]


def test_results_inside_the_inputs_are_no_inputs(tmp_path):
    touch(tmp_path, "a.png", "out/images/b.png")
    assert keys(tmp_path, leave_out=tmp_path / "out") == ["a.png"]


def test_an_input_without_images_is_a_mistake(tmp_path):
    touch(tmp_path, "empty/notes.doc")
    with pytest.raises(UsageError, match="no images in"):
        manifest.scan([tmp_path / "empty"])


def test_division_into_shards_and_back(tmp_path):
    touch(tmp_path, *(f"{number:03d}.png" for number in range(10)))
    items = manifest.scan([tmp_path])
    table = manifest.divide(items, 4, first_shard=7)
    parts = manifest.shards(table)
    assert list(parts) == [7, 8, 9]
    assert [item for part in parts.values() for item in manifest.items_of(part)] == items
    assert parts[8]["index"].to_pylist() == [0, 1, 2, 3]
    assert manifest.digest(table) == manifest.digest(manifest.divide(items, 4, first_shard=7))
    relabeled = manifest.with_labels(items, {items[3].key: "cat"})
    assert manifest.digest(table) != manifest.digest(manifest.divide(relabeled, 4, first_shard=7))


@pytest.mark.parametrize("count", [1, 100, 2_000, 60_000, 10_000_000])
def test_shard_sizes_suit_the_number_of_images(count):
    size = manifest.default_shard_size(count)
    assert 16 <= size <= 512
    assert size % 16 == 0
    assert count / size < 20_000


def test_labels_from_folders_and_tables(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/2.png", "3.png")
    items = manifest.scan([tmp_path])
    folders = {"3.png": tmp_path.name, "cat/1.png": "cat", "dog/2.png": "dog"}
    assert labels_for(items, "folders") == folders
    several = labels_for(manifest.scan([tmp_path / "cat", tmp_path / "dog"]), "folders")
    assert several == {"0/1.png": "cat", "1/2.png": "dog"}
    table = tmp_path / "labels.csv"
    table.write_text("file,kind,id\n./cat/1.png,tabby,007\n2.png,beagle,12\n")
    assert labels_for(items, f"{table}:kind") == {"cat/1.png": "tabby", "dog/2.png": "beagle"}
    assert labels_for(items, f"{table}:id") == {"cat/1.png": "007", "dog/2.png": "12"}
    with pytest.raises(UsageError, match="no column 'kin', but file, kind, id; nearest: kind"):
        labels_for(items, f"{table}:kin")
    touch(tmp_path, "cat/2.png")
    table.write_text("file,kind\ndog/2.png,beagle\n1.png,tabby\n")
    assert labels_for(manifest.scan([tmp_path]), f"{table}:kind") == {"cat/1.png": "tabby", "dog/2.png": "beagle"}
    table.write_bytes(b"file,kind\n1.png,caf\xe9\n")
    with pytest.raises(UsageError, match=r"cannot read .* as UTF-8 CSV"):
        labels_for(items, f"{table}:kind")
    table.write_text("file,kind\nother.png,x\n")
    with pytest.raises(UsageError, match="names none of the images"):
        labels_for(items, f"{table}:kind")
    with pytest.raises(UsageError, match=r"expected folders, FILE\.csv:column"):
        labels_for(items, "folder")


def test_labels_from_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    touch(tmp_path, "a.png", "b.png")
    pq.write_table(pa.table({"key": ["a.png", "b.png"], "class": [3, None]}), tmp_path / "t.parquet")
    assert labels_for(manifest.scan([tmp_path]), f"{tmp_path / 't.parquet'}:class") == {"a.png": "3"}


def test_labels_find_their_class_by_name_or_index():
    categories = ["Egyptian cat", "crane", "crane (2)", "T-shirt"]
    found = labels_by_class(["egyptian_cat", "crane", "2", "t shirt", "9", "dog"], categories)
    assert found == {"egyptian_cat": 0, "crane": 1, "2": 2, "t shirt": 3}
