"""Checks, with a fake trtexec, that deploy/tensorrt.py keeps one engine for each home, outside the home."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from lwm_edge import remove_class
from lwm_edge.demo import DEMO_DATA
from lwm_edge.home.home import Home
from tests.support.folders import state_of
from tests.support.pages import ROOT, block

OPTIONS = "\n  --fp16  Enable fp16 precision\n  --int8  Enable int8 precision"  # up to TensorRT 10
SCRIPT = Path(__file__).parents[1] / "deploy" / "tensorrt.py"
FAKE_TRTEXEC = """#!/bin/sh
for argument; do case $argument in
  --help) echo "  --onnx=<file>  ONNX model$OPTIONS"; exit;;
  --onnx=*) onnx="${argument#--onnx=}";;
  --saveEngine=*) engine="${argument#--saveEngine=}";;
esac; done
echo "$@" >>"$LOG"
cp "$onnx" "$engine"
[ -z "$BROKEN" ] || { echo "&&&& FAILED"; exit 1; }
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Makes a folder for PATH with a fake trtexec, which copies the ONNX file."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trtexec").write_text(FAKE_TRTEXEC)
    (tmp_path / "bin" / "trtexec").chmod(stat.S_IRWXU)
    return tmp_path / "bin"


def run(tools: Path | None, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{tools}:{os.environ['PATH']}" if tools else os.environ["PATH"]
    log = str((tools or Path("/nowhere")) / "log")
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "PATH": path, "LOG": log, "OPTIONS": OPTIONS, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def engine_name(home: Home) -> str:
    return f"{home.path.name}-{home.open_bundle().manifest.model_digest}-float32-batch1.engine"


@pytest.mark.slow
def test_there_is_one_engine_for_the_current_model(home: Home, tools: Path, tmp_path: Path) -> None:
    before = state_of(home.path)
    engines = home.path.with_name(f"{home.path.name}.engines")
    first = run(tools, home.path)
    assert first.returncode == 0, first.stderr
    engine = engines / engine_name(home)
    assert first.stdout.splitlines() == [str(engine)] and list(engines.iterdir()) == [engine]
    session = onnxruntime.InferenceSession(engine.read_bytes(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 28, 28, 3]  # the fake engine is the ONNX file
    assert state_of(home.path) == before
    assert run(tools, home.path).returncode == 0 and len((tools / "log").read_text().splitlines()) == 1
    other_batch = run(tools, home.path, "--batch", 2).stdout.splitlines()
    assert other_batch == [f"removed {engine}", str(engine).replace("batch1", "batch2")]
    assert run(tools, home.path).stdout.splitlines()[-1] == str(engine)
    (engines / "notes.engine").write_text("somebody else's")
    remove_class(home, "Coat", shipped=True)
    assert f"removed {engine}" in run(tools, home.path).stdout
    now = engines / engine_name(home)
    assert set(engines.iterdir()) == {now, engines / "notes.engine"}


@pytest.mark.slow
def test_homes_that_share_a_folder_leave_each_others_engines_alone(
    home: Home, tools: Path, tmp_path: Path
) -> None:
    other = Home(shutil.copytree(home.path, tmp_path / "home.2", symlinks=True))
    for changed in (home, other):
        remove_class(changed, "Coat" if changed is home else "Dress", shipped=True)
        made = run(tools, changed.path, "--engines", tmp_path / "shared")
        assert made.returncode == 0 and "removed" not in made.stdout, made.stderr
    engines = {path.name for path in (tmp_path / "shared").iterdir()}
    assert engines == {engine_name(home), engine_name(other)}


@pytest.mark.slow
def test_half_precision_is_compared_first(home: Home, tools: Path, tmp_path: Path) -> None:
    refused = run(tools, home.path, "--fp16")
    assert (refused.returncode, "fp16 must be checked on photos" in refused.stderr) == (2, True)
    photos = DEMO_DATA / "test" / "base"
    built = run(tools, home.path, "--fp16", "--batch", 4, "--photos", photos, "--engines", tmp_path / "e")
    assert built.returncode == 0, built.stderr
    assert "--fp16" in (tools / "log").read_text() and len(list((tmp_path / "e").iterdir())) == 1
    options = ["--batch", 4, "--photos", photos, "--engines", tmp_path / "e"]
    newer = run(tools, home.path, "--fp16", "--rebuild", *options, OPTIONS="")
    assert newer.returncode == 0, newer.stderr
    assert "--fp16" not in (tools / "log").read_text().splitlines()[-1]  # as since TensorRT 11


@pytest.mark.parametrize(
    ("shown", "has"),
    [
        ("--fp16                     Enable fp16 precision, in addition to fp32", True),
        ("--fp16, --half  Enable fp16 precision", True),
        ("--fp16=spec  Enable fp16 precision", True),
        ("--stronglyTyped  Always on: the options --fp16 and --int8 were removed", False),
        ("--fp16Weights  Store weights in fp16", False),
        ("--fp16-io  Read and write fp16", False),
        ("", False),
    ],
)
def test_an_option_is_at_the_start_of_a_line_of_the_help(
    shown: str, has: bool, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIONS", f"\n  {shown}")
    assert runpy.run_path(str(SCRIPT))["has_option"](str(tools / "trtexec"), "--fp16") is has


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "form"), [("hand-over", "first_home", "float32"), ("engine", "HOME", "fp16")]
)
def test_the_commands_on_the_page_build_an_engine(
    name: str, folder: str, form: str, home: Home, tools: Path, tmp_path: Path
) -> None:
    digest = home.open_bundle().manifest.model_digest
    home.path.rename(tmp_path / folder)
    (tmp_path / "deploy").symlink_to(SCRIPT.parent)
    (tmp_path / "PHOTOS").symlink_to(DEMO_DATA / "test" / "base")
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = subprocess.run(
        ["bash", "-euc", block("deploy/README.md", name)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": path,
            "LOG": str(tools / "log"),
            "OPTIONS": OPTIONS,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    engines = [path.name for path in (tmp_path / f"{folder}.engines").iterdir()]
    assert engines == [f"{folder}-{digest}-{form}-batch1.engine"]


@pytest.mark.slow
def test_a_failed_build_leaves_nothing_behind(home: Home, tools: Path) -> None:
    failed = run(tools, home.path, BROKEN="1")
    assert failed.returncode == 1 and "&&&& FAILED" in failed.stderr
    assert list(home.path.with_name(f"{home.path.name}.engines").iterdir()) == []


def test_a_home_that_does_not_exist_leaves_no_folder_behind(tools: Path, tmp_path: Path) -> None:
    refused = run(tools, tmp_path / "nowhere")
    assert refused.returncode == 4 and "nowhere does not exist" in refused.stderr
    assert not (tmp_path / "nowhere.engines").exists()


def test_a_folder_or_a_trtexec_that_cannot_be_used_is_named_in_one_line(
    home: Home, tools: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused = run(tools, home.path, "--engines", tmp_path / "file")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in refused.stderr
    (tools / "trtexec").write_bytes(b"\x7fELF for another processor")
    refused = run(tools, home.path)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert str(tools / "trtexec") in refused.stderr


def test_engines_inside_the_home_are_refused(home: Home, tools: Path) -> None:
    refused = run(tools, home.path, "--engines", home.path / "engines")
    assert refused.returncode == 1 and "is inside the home" in refused.stderr
    assert not (home.path / "engines").exists()


def test_without_trtexec_the_script_says_where_to_get_one(home: Home) -> None:
    found = run(None, home.path)
    assert found.returncode == 1 and "it comes with JetPack" in found.stderr
