"""The rows of optimizations: what they declare, and what is reported of results; no installed peer, nothing timed."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import ROOT, process
from benchmarks.agreement import excess, missed
from benchmarks.judges import attacked, gram, style_losses, synthesized
from benchmarks.optimization import rows, run, style
from benchmarks.outcome import Outcome, arrays, figures
from benchmarks.peers import style_tutorial, texture_numpy
from benchmarks.row import Configuration, Row, Venv
from benchmarks.subjects import Normalized, noise, pictures, sample

ROWS = [row for quick in (False, True) for row in rows(quick)]


def values(outcome: Outcome) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in arrays(outcome).items()}


@pytest.mark.parametrize("quick", [False, True])
def test_rows_have_names_and_titles_of_their_own(quick: bool) -> None:
    listed = list(rows(quick))
    assert len({row.name for row in listed}) == len({(row.device, row.title) for row in listed}) == len(listed)
    assert all(row.title and row.warmup == 0 and row.min_seconds == 0 for row in listed)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_setups_exist_and_take_their_parameters(row: Row) -> None:
    for configuration in row.configurations:
        module, _, function = configuration.setup.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())  # without importing a peer
        (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert set(configuration.params) <= {argument.arg for argument in found.args.args}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_all_configurations_of_a_row_do_the_same_work(row: Row) -> None:
    works = [configuration.params["work"] for configuration in row.configurations]
    assert all(work == works[0] for work in works)
    assert row.oracle.role == "reference"


@pytest.mark.parametrize(
    "configuration",
    {one.setup: one for row in ROWS for one in row.configurations if one.venv}.values(),
    ids=lambda one: one.name,
)
def test_peers_in_environments_of_their_own_import_nothing_of_ours(configuration: Configuration) -> None:
    waiting, seen = [configuration.setup.partition(":")[0]], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = ROOT / name.replace(".", "/")
        tree = ast.parse(
            (path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py").read_text()
        )
        for node in ast.walk(tree):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(str(one).startswith("afterimage") for one in names), name
            waiting += [str(one) for one in names if str(one).startswith("benchmarks.") and one not in seen]


def test_bfloat16_is_blocked_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, blocked in (([], True), (["avx2", "avx512f"], True), (["avx512_bf16"], False)):
        monkeypatch.setattr(run, "instruction_sets", lambda found=found: found)
        listed = {row.name: row.blocked for row in style.rows("cpu", quick=True)}
        assert bool(listed["optimization.style.bf16.64"]) == blocked
        assert listed["optimization.style.64"] is None


def test_the_tutorial_and_ours_do_the_same_steps() -> None:
    (row,) = [row for row in ROWS if row.name == "optimization.style.64"]
    work = {**row.ours.params["work"], "size": 32, "evaluations": 2}
    ours, theirs = arrays(style.transfer(work)()), arrays(style_tutorial.tutorial(work)())
    assert abs(excess(ours, theirs)) < 1e-4  # two steps of float32 from the same start


def test_the_loss_is_reached_and_not_passed_by_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "STORE", tmp_path)
    work = {"size": 32, "contents": 1, "texture": True, "rate": 0.02, "evaluations": 3, "style_weight": style.WEIGHT}
    work |= {"device": "cpu", "optimizer": "lbfgs"}
    theirs, ours = style_tutorial.tutorial(work)(), style.to_loss(work)()
    assert excess(arrays(ours), arrays(theirs)) < 0.02
    assert figures(ours)["evaluations"] >= 1
    assert len(list((tmp_path / "goals").iterdir())) == 1


def test_a_style_has_no_loss_in_itself_and_content_is_relative() -> None:
    style_picture, content = pictures(1, 32), noise(1, 32)
    assert float(style_losses(style_picture, style_picture, None, 10.0)) == 0
    assert float(style_losses(content, style_picture, content, 0.0)) == 0
    assert float(style_losses(content, style_picture, None, 10.0)) > 0
    assert gram(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])).tolist() == [[[2.5, 5.5], [5.5, 12.5]]]


def test_fooled_images_are_counted_and_measured() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # classes are the colors' means
    images = torch.full((2, 3, 4, 4), 0.5)
    changed = images.clone()
    changed[0, 2] += 0.25
    target = torch.tensor([2, 2])
    seen = Normalized(network)(changed).argmax(1)
    found = values(attacked(network, images, changed, target, toward=True))
    assert found["fooled"] == (seen == target).float().tolist()
    assert found["distance"] == [0.25, 0.0]
    assert (
        values(attacked(network, images, changed, target, toward=False))["fooled"] == (seen != target).float().tolist()
    )


def test_missed_counts_the_share_and_refuses_what_goes_too_far() -> None:
    def outcome(fooled: list[float], distance: float) -> dict[str, torch.Tensor]:
        return arrays({"fooled": torch.tensor(fooled), "distance": torch.full((4,), distance)})

    expected = outcome([1, 1, 1, 0], 0.1)
    assert missed(outcome([1, 0, 1, 0], 0.1), expected) == pytest.approx(0.25)
    assert missed(outcome([1, 1, 1, 1], 0.05), expected) == 0
    assert missed(outcome([1, 1, 1, 1], 0.11), expected) == float("inf")


def test_a_texture_of_the_samples_own_windows_is_at_no_distance() -> None:
    given = sample(24)
    assert values(synthesized(given, given[:, :12, :12]))["loss"] == [pytest.approx(0, abs=0.1)]  # of values up to 255


def test_numpys_texture_is_made_of_the_samples_pixels() -> None:
    picture = sample(40).permute(1, 2, 0).numpy().astype("float32")
    made = texture_numpy._synthesized(picture, size=12, window=5, levels=2)
    known = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert made.shape == (12, 12, 3)
    assert {tuple(pixel) for pixel in made.reshape(-1, 3).tolist()} <= known


def test_an_environment_finds_our_packages_behind_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STORE", tmp_path)
    monkeypatch.setattr(process, "run", lambda command, **_: "venv" in command and command[-1].mkdir(parents=True))
    process.interpreter(Venv("peer", ("peer==1",)))
    (listed,) = tmp_path.glob("envs/peer/**/ours.pth")
    assert listed.parent.name == "site-packages"
    assert (Path(listed.read_text().strip()) / "torch").exists()
    assert import_module("torch").__file__.startswith(listed.read_text().strip())
