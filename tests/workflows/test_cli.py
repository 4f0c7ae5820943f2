"""The command line: what it prints where, exit codes, one clear line for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from afterimage.registry import methods
from afterimage.workflows import cli
from tests.workflows.fixtures import write_faulty
from tests.workflows.test_run import rows_of, write_photographs

MIXED = ["--model", "tests.networks:mixed", "--crop", "32", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 3)


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **address) as cluster:
        yield cluster.scheduler_address


def test_a_run_by_default_starts_its_own_cluster(photographs, tmp_path):
    command = [sys.executable, "-m", "afterimage", "saliency", str(photographs), str(tmp_path / "out"), *MIXED]
    done = subprocess.run([*command, "--json", "--workers", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["statuses"] == {"ok": 3}
    assert set(summary["cpu_seconds"]) == {"read", "decode", "model", "write"}
    assert "local cluster: 1 worker" in done.stderr
    assert re.search(r"http://127\.0\.0\.1:\d+/status", done.stderr)
    assert len(done.stderr.splitlines()) < 8, "a run that goes well says little"
    assert (tmp_path / "out" / "page" / "index.html").exists()


def test_an_existing_cluster_is_used_where_it_is_named(photographs, tmp_path, cluster, capsys):
    arguments = ["guided-backprop", photographs, tmp_path / "out", *MIXED, "--scheduler", cluster]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert f"cluster at {cluster}: 2 workers" in err
    assert "3 ok of 3 images" in out
    assert len(rows_of(tmp_path / "out", "guided-backprop")) == 3
    code, _, err = call(capsys, *arguments, "--workers", "2")
    assert code == 2
    assert "leave out --workers" in err


def test_occlusion_from_the_command_line(photographs, tmp_path, cluster, capsys):
    arguments = ["occlusion", photographs, tmp_path / "out", *MIXED, "--scheduler", cluster]
    own = ["--window", "12x8", "--stride", "6", "--fill", "mean"]
    code, out, err = call(capsys, *arguments, *own, "--of", "convolutions.2:3")
    assert code == 0, err
    assert "3 ok of 3 images" in out
    assert {row["worst_box_y1"] - row["worst_box_y0"] for row in rows_of(tmp_path / "out", "occlusion")} <= {12, 8, 2}
    code, _, err = call(capsys, *arguments, *own, "--fill", "blur")
    assert code == 4
    assert "options.fill was 'mean', now 'blur'" in err
    _, out, _ = call(capsys, "occlusion", "--help")
    assert re.search(r"--window WINDOW .*\[default: 32\]", " ".join(out.split()))


def test_failed_inputs_exit_with_3_and_settings_of_another_run_with_4(tmp_path, cluster, capsys):
    write_faulty(tmp_path / "inputs")
    where = ["--scheduler", cluster, *MIXED]
    code, out, err = call(capsys, "saliency", tmp_path / "inputs", tmp_path / "out", *where)
    assert code == 3
    assert "decode_failed" in out
    assert "failed: " in err
    code, out, _ = call(capsys, "status", tmp_path / "out")
    assert code == 3
    assert "unsupported" in out
    code, _, err = call(capsys, "saliency", tmp_path / "inputs", tmp_path / "out", *where, "--score", "probability")
    assert code == 4
    assert err.count("\n") == 1
    assert "options.score was 'logit', now 'probability'" in err
    code, out, _ = call(capsys, "verify", tmp_path / "out")
    assert (code, out.count("\n")) == (0, 1)
    marker = next((tmp_path / "out" / "saliency" / "shards").glob("*.commit.json"))
    marker.write_text(marker.read_text().replace('"rows": ', '"rows": 1'))
    assert call(capsys, "page", tmp_path / "out")[0] == 0


@pytest.mark.slow
def test_an_interrupt_from_the_terminal_drains_and_the_run_goes_on(tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 40, (128, 128))
    command = [sys.executable, "-m", "afterimage", "saliency", str(inputs), str(tmp_path / "out"), "--model", "demo"]
    command += ["--shard-size", "1", "--workers", "2", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    shards = tmp_path / "out" / "saliency" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.commit.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "finishing the shards under way" in err
    done = json.loads(out)["computed"]
    assert 0 < done < 40
    assert len(list(shards.glob("*.commit.json"))) == done
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["computed"] == 40 - done
    assert json.loads(again.stdout)["statuses"] == {"ok": 40}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["salience", "photos", "out"], "No such command 'salience'"),
        (["saliency", "photos"], "expected INPUT… and then OUT"),
        (["saliency", "photos", "out", "--scor", "logit"], "No such option"),
        (["saliency", "photos", "out", "--score", "logits"], "'logits' is not one of"),
        (["saliency", "nowhere", "out"], "no folder, file, list or glob 'nowhere'"),
        (["saliency", "PHOTOS", "out", "--model", "resnet51"], "no network 'resnet51'; nearest: resnet50"),
        (["saliency", "PHOTOS", "out", "--model", "demo", "--of", "conv9"], "no layer 'conv9'"),
        (["saliency", "PHOTOS", "out", "--model", "demo", "--target", "hearts"], "no class 'hearts'"),
        (["saliency", "PHOTOS", "out", "--model", "demo", "--mean", "1,2"], "three numbers for red,green,blue"),
        (["saliency", "PHOTOS", "out", "--model", "demo", "--crop", "big"], "expected a side, as 224"),
        (["occlusion", "PHOTOS", "out", "--model", "demo", "--window", "129"], "window"),
        (["occlusion", "PHOTOS", "out", "--model", "demo", "--window", "big"], "big"),
        (["occlusion", "PHOTOS", "out", "--model", "demo", "--stride", "33"], "stride: expected at most the window"),
        (["occlusion", "PHOTOS", "out", "--model", "demo", "--fill", "grey"], "fill"),
        (["saliency", "PHOTOS", "out", "--model", "demo", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler"),
        (["saliency", "PHOTOS", "PHOTOS", "--model", "demo"], "files of its own"),
        (["status", "nowhere"], "no run in 'nowhere'"),
        (["verify", "nowhere"], "no run in 'nowhere'"),
        (["page", "nowhere"], "no run in 'nowhere'"),
        (["layers", "vgg61"], "no network 'vgg61'"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, message, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *[str(photographs) if one == "PHOTOS" else one for one in arguments])
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_without_weights_and_network_the_line_names_what_helps(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    code, _, err = call(capsys, "saliency", photographs, tmp_path / "out")
    assert code == 2
    assert re.search(r"downloading the weights of resnet50, 10\d MB, from https://", err)
    assert "--weights FILE" in err
    assert "--model demo" in err


def test_dry_run_says_what_it_would_take(photographs, tmp_path, capsys):
    code, out, _ = call(capsys, "saliency", photographs, tmp_path / "out", *MIXED, "--dry-run")
    assert code == 0
    assert re.match(r"3 images; 1 shards to compute, 0\.\d MB, in ", out)
    assert not (tmp_path / "out").exists()


def test_layers_are_listed(capsys):
    code, out, _ = call(capsys, "layers", "vgg11")
    assert code == 0
    assert re.search(r"^features\.0 +Conv2d +64×224×224 +3×3 +1,792$", out, re.MULTILINE)


def test_every_method_is_a_verb_with_its_options(capsys):
    _, listed, _ = call(capsys, "methods")
    for verb, found in methods().items():
        assert verb in listed
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0
        for option in found.options:
            if found.generates and option.name == "of":
                continue  # its neurons are subjects
            assert f"--{option.name.replace('_', '-')}" in out
