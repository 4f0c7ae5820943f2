"""Where pictures go: mirroring the keys, never two to one place, never outside."""

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterimage.workflows.picture_names import LONGEST, anew, picture_names


def names(*parts):
    found = picture_names([[quote_from_bytes(key) for key in part] for part in parts])
    return list(found.values())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([b"a.jpg", b"b/c d.JPEG"], [b"a.png", b"b/c d.png"]),
        ([b"a.jpg", b"a.png", b"a/a.jpg"], [b"a.jpg.png", b"a.png.png", b"a/a.png"]),
        ([b"a.jpg", b"a.jpg.png", b"a.png"], [b"a.jpg.png", b"a.jpg.png.png", b"a.png.png"]),
        ([b"IMG.2024", b"two.dots.tif"], [b"IMG.2024.png", b"two.dots.png"]),
        ([b".png", b"x/.jpg"], [b".png.png", b"x/.jpg.png"]),
        ([b"a.jpg", b"a.png/b.jpg"], [b"a.jpg.png", b"a.png/b.png"]),
        ([b"\xff\xfe.jpg", b"new\nline.png"], [b"\xff\xfe.png", b"new\nline.png"]),
        ([b"../up.jpg", b"a/../../b.jpg", b"./c.jpg"], [b"_/up.png", b"a/_/_/b.png", b"_/c.png"]),
        ([b"x" * 251 + b".jpg"], [b"x" * 251 + b".png"]),
    ],
)
def test_names_mirror_the_keys(keys, expected):
    assert names(keys) == expected


def test_names_end_as_the_format_that_is_asked_for():
    from afterimage.workflows.photos import PhotoFiles

    def found(form, *keys):
        parts = [[quote_from_bytes(key) for key in keys]]
        return list(picture_names(parts, PhotoFiles(form, 92, False).end).values())

    own = [b"a.jpg", b"a.png", b"b/A.JPEG", b"c.TIF", b"d.webp"]
    assert found(None, *own) == own
    assert found(None, b"a.jpg", b"a.heic", b"b.avif") == [b"a.jpg.jpg", b"a.heic.jpg", b"b.jpg"]
    assert found(None, b"g.gif", b"h.bmp", b"IMG.2024") == [b"g.png", b"h.png", b"IMG.2024.png"]
    assert found("png", b"a.jpg", b"a.png", b"c.JPG") == [b"a.jpg.png", b"a.png.png", b"c.png"]
    assert found("jpeg", b"a.jpeg", b"b.png", b"~g1.jpg") == [b"a.jpeg", b"b.jpg", b"~g1.jpg.jpg"]
    assert anew(b"f/a.JPEG", 2) == b"f/a~g2.JPEG"
    assert len(anew(b"y" * 250 + b".webp", 12)) <= LONGEST


def test_a_part_of_a_key_leads_nowhere_else():
    assert list(picture_names([["a%2Fb", "..%2F..%2Fetc", "%00"]]).values()) == [b"a_b.png", b".._.._etc.png", b"_.png"]


def test_a_name_that_is_too_long_is_cut():
    (name,) = names([b"f/" + "é".encode() * 127 + b"x"])
    assert len(name) == LONGEST - 1, "no character is cut in two"
    assert b"/" not in name
    name.decode()
    one, other = names([b"y" * 254, b"y" * 253 + b"z"])
    assert one != other
    assert len(anew(b"y" * 250 + b".png", 12)) <= LONGEST
    assert anew(b"f/a.png", 2) == b"f/a~g2.png"


def test_names_of_retries_are_left_free():
    (name,) = names([b"a~g1.jpg"])
    assert name == b"a~g1.jpg.png"


def test_what_came_first_keeps_its_name():
    assert names([b"a.jpg"], [b"a.png", b"b.jpg"]) == [b"a.png", b"a.png.png", b"b.png"]
    first, second = names([b"a.jpg"], [b"a.png/b.jpg"])
    assert first == b"a.png"
    assert not second.startswith(b"a.png/")


PART = st.sampled_from([b"a", b"b", b"a.png", b"a.jpg", b"a.jpg.png", b"a~g1.png", b"..", b"\xff", b".png", b"x" * 250])
KEYS = st.lists(st.lists(PART, min_size=1, max_size=3).map(b"/".join), unique=True, max_size=12)


@given(KEYS, KEYS)
def test_no_two_have_one_place_and_none_is_a_folder(first, second):
    second = [key for key in second if key not in first]
    found = names(first, second)
    assert found[: len(first)] == names(first)
    assert len(set(found)) == len(found) == len(first) + len(second)
    folders = {name[:place] for name in found for place in range(len(name)) if name[place : place + 1] == b"/"}
    assert not folders & set(found)
    for name in found:
        assert all(0 < len(part) <= LONGEST and part not in (b"..", b".") for part in name.split(b"/"))
        assert name.endswith(b".png")
