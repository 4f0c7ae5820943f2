"""Painting by strips gives what the network gives, for any strip, from memory or from a file."""

import os
import shutil
import tempfile
from collections import namedtuple

import numpy as np
import pytest
import torch

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet, StyleRuntime
from afterimage.models.style import runtime as running
from afterimage.models.style.quick import Quick
from afterimage.models.style.tiles import paint, picture_of
from tests.networks import lively

SHARES = torch.tensor([0.25, 0.75])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return lively(StyleNet(4, ("a", "b"))).eval().requires_grad_(False)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("keep", ["all", "memory", "file"])
@pytest.mark.parametrize("rows", [4, 8, 12, 64])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (30, 19), (71, 50)])
def test_strips_give_what_the_network_gives(net, temporary, size, rows, keep):
    exact = StyleNet(4, net.styles)
    exact.load_state_dict(net.state_dict())
    exact = exact.double()
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    came, seen = torch.full_like(images, torch.nan), []
    told = lambda done, steps: seen.append((done, steps))  # noqa: E731
    with torch.no_grad():
        expected = exact(images, SHARES[None].double(), torch.tensor([0.75], dtype=torch.float64))
        paint(Quick(exact), picture_of(images[0], came[0]), 0.75, SHARES.double(), rows=rows, keep=keep, progress=told)
    assert ((expected > 0) & (expected < 1)).double().mean() > 0.2
    torch.testing.assert_close(came, expected, atol=1e-9, rtol=0)
    steps = seen[-1][1]
    assert seen == [(done, steps) for done in range(1, steps + 1)]
    assert not os.listdir(temporary)


def test_means_far_from_zero_leave_variances_exact(net):
    """Bright flat pictures: E[x²] − E[x]² would lose them in float32."""
    images = torch.full((1, 3, 48, 40), 0.97)
    images[:, :, ::2, ::3] += 0.004
    exact = StyleNet(4, net.styles)
    exact.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = exact.double()(images.double(), SHARES[None].double()).float()
    came = StyleRuntime(net, engine="torch", threads=1)(images, shares=SHARES)
    eager = net(images, SHARES[None])
    # contrast of 1/250 is drawn out: no less exact than torch's own norms, within the chance of roundings
    assert (came - expected).abs().max() <= 4 * (eager - expected).abs().max() + 1e-5


@pytest.mark.parametrize("limit", [2**10, 2**20])
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_large_pictures_are_painted_by_strips(net, monkeypatch, temporary, engine, limit):
    rng = np.random.default_rng(0)
    levels = rng.integers(256, size=(2, 201, 127, 3), dtype=np.uint8)
    strength, shares = torch.tensor([1.0, 0.5]), torch.stack([SHARES, SHARES.flip(0)])
    runtime = StyleRuntime(net, engine=engine, threads=1, tile=None)
    whole = runtime(levels, strength, shares)
    floats = runtime(running.unit(torch.from_numpy(levels)), strength, shares)
    monkeypatch.setattr(running, "LIMIT", limit)  # of it depends whether maps lie in a file
    called = []
    strips = StyleRuntime(net, engine=engine, threads=1)
    original = StyleRuntime._tile
    monkeypatch.setattr(StyleRuntime, "_tile", lambda *how: (called.append(1), original(*how)))
    came = strips(levels, strength, shares)
    assert len(called) == 2
    assert np.abs(came.astype(int) - whole).max() <= 1
    assert np.array_equal(strips(torch.from_numpy(levels), strength, shares).numpy(), came)
    tensor = strips(running.unit(torch.from_numpy(levels)), strength, shares)
    torch.testing.assert_close(tensor, floats, atol=1e-4, rtol=0)
    listed = strips(list(levels), strength, shares)
    assert all(np.array_equal(*pair) for pair in zip(listed, came, strict=True))
    assert not os.listdir(temporary)


def test_pictures_may_lie_in_files(net, tmp_path):
    levels = np.random.default_rng(0).integers(256, size=(90, 70, 3), dtype=np.uint8)
    levels.tofile(tmp_path / "in")
    source = np.memmap(tmp_path / "in", np.uint8, "r", shape=levels.shape)
    out = np.memmap(tmp_path / "out", np.uint8, "w+", shape=levels.shape)
    runtime = StyleRuntime(net, engine="torch", threads=1, tile=16)
    seen = []
    came = runtime.paint_large(source, 0.8, {"a": 1}, out=out, progress=lambda *done: seen.append(done))
    assert came is out
    assert np.array_equal(out, runtime(levels, 0.8, {"a": 1}))
    assert seen[-1][0] == seen[-1][1] == len(seen)
    for wrong in (np.empty((90, 71, 3), np.uint8), np.empty(levels.shape), levels):
        with pytest.raises(UsageError, match="out: expected another uint8 array"):
            runtime.paint_large(levels, out=wrong)
    with pytest.raises(UsageError, match=r"expected one picture \(H, W, 3\), got \(1, 90, 70, 3\)"):
        runtime.paint_large(levels[None])


def test_a_disk_without_room_is_told_before_the_work(net, monkeypatch, temporary):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**40, 2**40 - 2**30 - 10, 2**30 + 10))
    image = torch.rand(3, 64, 64)
    with pytest.raises(UsageError, match=r"GiB of maps, .* has 0\.0 GiB to spare: set TMPDIR"):
        paint(Quick(net), picture_of(image, image.clone()), 1.0, SHARES, rows=64, keep="file")
    assert not os.listdir(temporary)


def test_an_interrupt_leaves_no_file(net, temporary):
    def stop(done, steps):
        assert not os.listdir(temporary)
        if done == 5:
            raise KeyboardInterrupt

    image = torch.rand(3, 64, 64)
    with pytest.raises(KeyboardInterrupt):
        paint(Quick(net), picture_of(image, image.clone()), 1.0, SHARES, rows=16, keep="file", progress=stop)
    assert not os.listdir(temporary)


@pytest.mark.parametrize("tile", [0, -4, 6, "large", 2.5])
def test_rows_of_a_strip_are_multiples_of_4(net, tile):
    with pytest.raises(UsageError, match="tile: expected"):
        StyleRuntime(net, engine="torch", tile=tile)
