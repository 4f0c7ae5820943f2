"""What exceeds a limit is found wherever it lies, on every instruction set."""

import os
import subprocess
import sys

import pytest
import torch

from afterimage.ops import kernels
from afterimage.ops.exceeding import exceeding, reference

SIZES = [(1, 1), (3, 63), (40, 64), (33, 200), (65, 1000)]


def given(size, both):
    torch.manual_seed(0)
    block = torch.randn(size)
    return block, torch.full(size[:1], 2.0), torch.full(size[1:], 1.8) if both else None


def compare(size, both):
    block, rows, columns = given(size, both)
    places, values = reference(block, rows, columns)
    found = exceeding(block, rows, columns, len(places))
    assert found is not None
    assert torch.equal(found[0], places)
    assert torch.equal(found[1], values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("both", [False, True])
def test_places_and_values_are_those_of_the_reference(size, both):
    compare(size, both)


def test_more_than_there_is_room_for_is_none(monkeypatch):
    block, rows, columns = given((65, 1000), True)
    count = len(reference(block, rows, columns)[0])
    assert exceeding(block, rows, columns, count) is not None
    assert exceeding(block, rows, columns, count - 1) is None
    assert exceeding(block, rows - 9, columns, 10) is None
    monkeypatch.setattr(kernels, "module", lambda device: None)
    assert exceeding(block, rows, columns, count) is not None
    assert exceeding(block, rows, columns, count - 1) is None


def test_limits_themselves_do_not_exceed():
    block = torch.tensor([[1.0, 2.0], [3.0, float("inf")]])
    found = exceeding(block, torch.tensor([2.0, float("inf")]), torch.tensor([3.0, float("inf")]), 4)
    assert found is not None
    assert not len(found[0])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_other_instruction_sets_find_the_same(isa):
    module = kernels.module("cpu")
    levels = ("baseline", "avx2", "avx512", "amx")
    if module is None or levels.index(isa) > levels.index(module.isa()):
        pytest.skip(f"the kernels are not built, or this processor has no {isa}")
    code = "import tests.ops.test_exceeding as test; [test.compare(size, True) for size in test.SIZES]"
    environment = {**os.environ, "AFTERIMAGE_ISA": isa}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
