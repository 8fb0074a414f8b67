"""Several processes under torchrun make the same base as one, up to rounding, or all end with one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lwm_edge
from lwm_edge.base.reports import BaseReport
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.tensors import COVARIANCE, MEANS
from tests.support.folders import DEMO_DATA, PhotoMaker
from tests.support.pages import ROOT, block

pytestmark = pytest.mark.extended

# Executes PREPARE, then runs the command line as `python -m lwm_edge` does.
START = """
import os, signal, sys
from lwm_edge.base import ranks, saved_training, train
exec(os.environ["PREPARE"])
from lwm_edge.__main__ import main
main()
"""
BUILD = "--arch small_resnet20 --image-size 28 --capacity 8 --grid 0 --epochs 3 --batch-size 8 --device cpu"
DIES = """
saved_training.SECONDS_BETWEEN_SAVES, read = 0.0, train.read_ahead
def read_or_die(photos, batches, epoch, threads):
    if epoch == 2 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(photos, batches, epoch, threads)
train.read_ahead = read_or_die
"""
FAILS = """
from lwm_edge.errors import PhotosError
def fail(*given):
    if os.environ["RANK"] == FAILING:
        raise PhotosError("a photo is gone")
    return read(*given)
read, train.read_ahead = train.read_ahead, fail
"""


def torchrun(
    *command: object, prepare: str = "", restarts: int = 0, processes: int = 2, seconds_to_notice: float = 0.1
) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    launch += ["--monitor-interval", seconds_to_notice]
    start = ["--max-restarts", restarts, "--no-python", sys.executable, "-c", START]
    return subprocess.run(
        [sys.executable, *map(str, [*launch, *start, *command])],
        env={**os.environ, "PREPARE": prepare, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def build(
    photos: Path, output: Path, options: Sequence[str] = (), **named: Any
) -> subprocess.CompletedProcess[str]:
    return torchrun("build-base", photos, *BUILD.split(), *options, "-o", output, **named)


def test_the_command_on_the_page_makes_a_base(make_photos: PhotoMaker, tmp_path: Path) -> None:
    make_photos("Bag", "Dress", count=10, folder="PHOTOS")
    where_torchrun_is = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(
        ["bash", "-euc", block("examples/README.md", "several-processes")],
        cwd=tmp_path,
        env={**os.environ, "PATH": where_torchrun_is, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("Base made") == 1 and made.stderr.count("Reading 20 photos") == 1
    base = tmp_path / "my_base.lwm"
    manifest = open_bundle(base).manifest
    assert (manifest.architecture, manifest.preprocessing.image_size) == ("resnet50", 224)
    assert manifest.class_names == ("Bag", "Dress") and manifest.shipped_classes == 2
    home = tmp_path / "home"
    lwm_edge.init_home(base, home)
    predictions = lwm_edge.predict(home, sorted((tmp_path / "PHOTOS").rglob("*.png"))).predictions
    assert all(p.class_names[0] in ("Bag", "Dress") for p in predictions) and len(predictions) == 20


def test_several_processes_get_the_same_figures_as_one(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "examples" / "02_save_checkpoint.py", tmp_path / "model.pth"], check=True
    )
    command = [
        "pack", tmp_path / "model.pth", DEMO_DATA / "train" / "base", "--arch", "small_resnet20",
        "--image-size", 28, "--capacity", 8, "--activation", "sigmoid",
        "--unseen-photos", DEMO_DATA / "test" / "base", "--json", "-o",
    ]  # fmt: skip
    reports = []
    for count in (1, 2):
        result = torchrun(*command, tmp_path / f"{count}.lwm", processes=count)
        assert result.returncode == 0, result.stderr
        reports.append(BaseReport.model_validate_json(result.stdout))  # one document, from the first process
    one, several = reports
    assert several.levels.levels == one.levels.levels and several.warnings == one.warnings
    assert [trial.accuracy for trial in several.levels.tried] == pytest.approx(
        [trial.accuracy for trial in one.levels.tried], abs=1e-5
    )
    assert several.learnt.accuracy == pytest.approx(one.learnt.accuracy, abs=1e-5)
    assert several.statistics.accuracy == pytest.approx(one.statistics.accuracy, abs=1e-5)
    first, second = (open_bundle(tmp_path / f"{count}.lwm").arrays() for count in (1, 2))
    assert second.keys() == first.keys() >= {MEANS, COVARIANCE}
    # The last layer and the unknown score follow from the statistics, so one tolerance holds for every array.
    for name, values in first.items():
        largest = float(abs(values).max(initial=0))
        np.testing.assert_allclose(second[name], values, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_two_processes_train_a_base_in_bfloat16(tmp_path: Path) -> None:
    reports, weights = [], []
    for precision in ("float32", "bfloat16"):
        base = tmp_path / f"{precision}.lwm"
        made = build(DEMO_DATA / "train" / "base", base, options=["--precision", precision, "--json"])
        assert made.returncode == 0, made.stderr
        reports.append(BaseReport.model_validate_json(made.stdout))
        weights.append({n: a for n, a in open_bundle(base).arrays().items() if n.startswith("backbone.")})
    single, half = weights
    assert all(array.dtype == single[name].dtype for name, array in half.items())  # stored in float32
    assert any((array != single[name]).any() for name, array in half.items())
    assert all(np.isfinite(array).all() for array in half.values())
    assert reports[1].learnt.accuracy == pytest.approx(reports[0].learnt.accuracy, abs=0.1)
    assert reports[0].learnt.accuracy > 0.6  # of six classes
    home = tmp_path / "home"
    lwm_edge.init_home(tmp_path / "bfloat16.lwm", home)
    lwm_edge.add_classes(home, DEMO_DATA / "train" / "2")
    (bag,) = lwm_edge.predict(home, [DEMO_DATA / "test" / "2" / "Bag" / "000.png"]).predictions
    assert bag.class_names[0] == "Bag"


def test_a_killed_process_ends_all_and_a_restart_ends_as_if_nothing_had_happened(
    make_photos: PhotoMaker, tmp_path: Path
) -> None:
    photos = make_photos("Bag", "Shirt", count=20)
    whole = build(photos, tmp_path / "whole.lwm", prepare="saved_training.SECONDS_BETWEEN_SAVES = 0.0")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("Base made") == 1 and whole.stderr.count("Reading 40 photos") == 1
    assert "Warning" not in whole.stderr
    # If torchrun looked more often, it could end the other process before that process notices the death.
    killed = build(photos, tmp_path / "base.lwm", prepare=DIES, seconds_to_notice=5.0)
    assert killed.returncode != 0 and killed.stdout == ""
    (message,) = messages(killed)
    assert message.startswith("Error: another process ended without an error message while making this base")
    assert sorted(path.name for path in tmp_path.glob("*.lwm*")) == ["base.lwm.training", "whole.lwm"]
    (tmp_path / "base.lwm.training").unlink()
    restarted = build(photos, tmp_path / "base.lwm", prepare=DIES, restarts=1)
    assert restarted.returncode == 0, restarted.stderr
    assert sorted(path.name for path in tmp_path.glob("*.lwm*")) == ["base.lwm", "whole.lwm"]
    assert (tmp_path / "base.lwm").read_bytes() == (tmp_path / "whole.lwm").read_bytes()


def messages(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Finds our own messages among what torchrun prints."""
    return [line for line in result.stderr.splitlines() if line.startswith(("Error:", "Interrupted"))]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_in_one_process_is_reported_once(
    failing: int, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    photos = make_photos("Bag", "Shirt", count=20)
    failed = build(photos, tmp_path / "base.lwm", prepare=f"FAILING = '{failing}'\n{FAILS}")
    assert failed.returncode != 0 and failed.stdout == ""
    assert messages(failed) == ["Error: a photo is gone"]
    assert not list(tmp_path.glob("*.lwm*"))


def test_a_fault_that_all_processes_find_is_reported_once(tmp_path: Path, make_photos: PhotoMaker) -> None:
    failed = build(tmp_path / "nothing", tmp_path / "base.lwm")
    assert failed.returncode != 0 and len(messages(failed)) == 1
    command = ["build-base", make_photos("Bag", "Shirt"), *BUILD.split(), "--json", "-o"]
    failed = torchrun(*command, tmp_path / "none" / "base.lwm")
    assert json.loads(failed.stdout)["error"]["exit_code"] == 2
