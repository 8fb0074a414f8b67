"""Runs some of the benchmark scripts from start to finish, on little data."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Arranges six classes as protocol.py and sweep.py need them."""
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for source in sorted(DEMO_DATA.glob(f"{split}/*/*"))[:6]:
            (tmp_path / "data" / split / source.name).symlink_to(source)
    return tmp_path / "data"


SMALL: tuple[Any, ...] = (
    "--arch", "small_resnet20", "--image-size", 28, "--base-classes", 2, "--step-classes", 2,
)  # fmt: skip


def _run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.extended
def test_patches_add_to_what_a_head_reads(data: Path, tmp_path: Path) -> None:
    protocol = ["--epochs", 1, "--base-epochs", 1, "--new-photos", 10, "--method", "nearest-mean"]
    _run("protocol.py", data, tmp_path / "runs.json", *SMALL, *protocol)
    base = tmp_path / "runs" / "1993" / "base.lwm"
    options = ["--seed", 1993, "--name", "small", "--step-classes", 2, "--count", 5]
    printed = _run("patches.py", base, data, tmp_path / "patches.json", *options)
    (run,) = json.loads((tmp_path / "patches.json").read_text())["runs"]
    assert (
        all(len(run[kind]) == 3 for kind in ("network", "patches", "both")) and "| small | 1993 |" in printed
    )
    assert run["values"]["both"] == run["values"]["network"] + 40


@pytest.mark.extended
def test_the_protocol_runs_resumes_and_prints_its_table(data: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = [*SMALL, "--epochs", 1, "--base-epochs", 1, "--new-photos", 10, "--grid", 0]
    methods = ["--method", "auto", "--method", "nearest-mean", "--method", "streaming-lda"]
    _run("protocol.py", data, results, *options, *methods)
    runs = json.loads(results.read_text())["runs"]
    assert [run["method"] for run in runs] == ["auto", "nearest-mean", "streaming-lda"]
    assert [step["classes"] for step in runs[0]["steps"]] == [2, 4, 6]
    assert all(
        0 <= step["all"] <= 1 and len(step["per_class"]) == step["classes"] for step in runs[0]["steps"]
    )
    assert {step["recipe"] for step in runs[0]["steps"][1:]} == {"lda"}
    # `streaming-lda` has the same statistics and frozen backbone; `auto` runs as on a device, through ONNX
    assert runs[0]["steps"][-1]["all"] == pytest.approx(runs[2]["steps"][-1]["all"], abs=0.05)

    printed = _run("protocol.py", data, results, *options, *methods, "--method", "joint")
    assert "auto, seed" not in printed and "joint, seed 1993" in printed and "| auto | 1 |" in printed
    _run("protocol.py", data, results, *options, "--method", "lwm:gamma=0.5,beta=0", "--method", "lwm-l2")
    table = _run("table.py", results)
    assert table.count("\n| ") == 7 and "| joint | 1 |" in table and "| lwm:gamma=0.5,beta=0 | 1 |" in table
    _run("figures.py", results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    methods = ["--method", "auto", "--method", "lwm:gamma=0.5,beta=0"]
    distances = _run("attention_maps.py", data, results, 1993, tmp_path / "maps.png", *methods)
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    trained = [float(cell.split()[0]) for cell in distances.splitlines()[-1].split("|")[2:4]]
    assert 0 < trained[0] < trained[1]
    kept = json.loads((tmp_path / "maps.json").read_text())["distance_to_first"]
    assert list(kept) == methods[1::2] and [round(value, 2) for value in kept[methods[3]]] == trained


@pytest.mark.extended
def test_random_kills_leave_no_bad_home(tmp_path: Path) -> None:
    printed = _run("crash.py", tmp_path / "crash.json", "--kills", 12)
    result = json.loads((tmp_path / "crash.json").read_text())
    assert result["landed"] == 12 and result["landed_in_commit"] >= 5
    assert result["homes"]["bad"] == 0 and sum(result["homes"].values()) == 12
    assert "12 increments were killed" in printed


@pytest.mark.extended
def test_a_protocol_that_is_killed_ends_with_the_same_numbers(data: Path, tmp_path: Path) -> None:
    options = ["--arch", "small_resnet20", "--image-size", 28, "--base-classes", 2, "--step-classes", 2]
    options += ["--epochs", 2, "--base-epochs", 1, "--new-photos", 10, "--grid", 0]
    method = "lwm:precision=float32,micro_batch_size=16"  # a plan would choose these by measuring
    options += ["--method", method]
    _run("protocol.py", data, tmp_path / "whole.json", *options)
    killed = tmp_path / "killed.json"
    for finished in (1, 2):
        command = [
            sys.executable,
            str(BENCHMARKS / "protocol.py"),
            str(data),
            str(killed),
            *map(str, options),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            kept = tmp_path / "killed" / "1993" / f"{method}-steps.json"
            while not kept.exists() or len(json.loads(kept.read_text())["steps"]) < finished:
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
    assert not killed.exists()
    _run("protocol.py", data, killed, *options)
    whole, continued = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "killed"))
    for one, other in zip(whole["runs"][0]["steps"], continued["runs"][0]["steps"], strict=True):
        for figure in ("all", "top5", "per_class"):
            assert one[figure] == other[figure]


@pytest.mark.extended
def test_the_sweep_runs_resumes_and_prints_its_table(data: Path, tmp_path: Path) -> None:
    results = tmp_path / "sweep.json"
    options = [*SMALL, "--until", 6, "--new-photos", 10, "--held-out", 10, "--base-epochs", 1, "--seed", 7]
    _run("sweep.py", data, results, *options, "--trial", "epochs=1", "--trial", "epochs=1,schedule=cosine")
    runs = json.loads(results.read_text())["runs"]
    assert [(run["recipe"], run["trial"]) for run in runs] == [
        ("lwm", "epochs=1"), ("lwf-mc", "epochs=1"),
        ("lwm", "epochs=1,schedule=cosine"), ("lwf-mc", "epochs=1,schedule=cosine"),
    ]  # fmt: skip
    assert all([step["classes"] for step in run["steps"]] == [2, 4, 6] for run in runs)
    printed = _run("sweep.py", data, results, *options, "--trial", "epochs=1")
    assert printed.count("| `epochs=1") == 2 and printed.count("\nBest: ") == 2
    assert json.loads(results.read_text())["runs"] == runs


@pytest.mark.extended
def test_estimates_are_compared_with_real_photos(data: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):  # the base knows six classes, and others are learnt
        for source in sorted(DEMO_DATA.glob(f"{split}/*/*"))[6:]:
            (data / split / source.name).symlink_to(source)
    printed = _run("estimates.py", BASE_BUNDLE, data, tmp_path / "estimates.json", "--classes", 2)
    (run,) = json.loads((tmp_path / "estimates.json").read_text())["runs"]
    (row,) = run["rows"]
    assert row["classes"] == 8 and 0.5 < row["accuracy"] < 1 and row["estimate"]["measured"] > 0.5
    assert "| base | lda | 1 of 2 |" in printed


@pytest.mark.extended
def test_each_terms_gradient_is_measured(data: Path, tmp_path: Path) -> None:
    results = tmp_path / "gradients.json"
    options = [*SMALL, "--until", 6, "--new-photos", 10, "--held-out", 10, "--base-epochs", 1]
    printed = _run("gradients.py", data, results, *options, "--change", "epochs=2,batch_size=2")
    (run,) = json.loads(results.read_text())["runs"]
    assert [(row["classes"], row["epoch"]) for row in run["rows"]] == [(4, 1), (4, 2), (6, 1), (6, 2)]
    for row in run["rows"]:
        assert min(row["L_C"], row["beta L_D"], row["gamma L_AD"]) > 0 and -1 <= row["cosine"] <= 1
    assert printed.count("| `epochs=2,batch_size=2` |") == 4


@pytest.mark.extended
def test_random_kills_of_two_inboxes_leave_no_problem(tmp_path: Path) -> None:
    printed = _run("inbox_crash.py", tmp_path / "inbox-crash.json", "--kills", 12)
    result = json.loads((tmp_path / "inbox-crash.json").read_text())
    assert result["landed"] == 12 and result["bad"] == [] and "12 processes were killed" in printed
    assert sum(result["landed_while"].values()) > 0
