"""Whatever needs torch says so if torch is missing or broken; all else still runs (see .ci/without_torch)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lwm_edge
from lwm_edge import IncrementConfig, add_classes
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ConfigError, ResourceError, known
from lwm_edge.home.home import Home
from lwm_edge.increment import task
from lwm_edge.model import torch_needed
from lwm_edge.model.torch_needed import require_torch

_BROKEN = "libcudart.so.12: cannot open shared object file: No such file or directory"
_BUILD = ["build-base", str(DEMO_DATA / "train/1"), "--arch", "small_resnet20", "-o", "made.lwm"]
_PACK = ["pack", str(BASE_BUNDLE), str(DEMO_DATA / "train/1"), "--arch", "small_resnet20", "-o", "made.lwm"]


def _run_with_broken_torch(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "broken" / "torch").mkdir(parents=True, exist_ok=True)
    (folder / "broken" / "torch" / "__init__.py").write_text(f"raise OSError({_BROKEN!r})\n")
    path = os.pathsep.join([str(folder / "broken"), str(Path(lwm_edge.__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, "-m", "lwm_edge", *command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", [["demo"], _BUILD, _PACK], ids=lambda command: str(command[0]))
def test_a_command_that_needs_torch_says_so_if_torch_is_broken(tmp_path: Path, command: list[str]) -> None:
    ended = _run_with_broken_torch(tmp_path, *command)
    assert ended.returncode == 2
    assert "needs torch and torchvision, and they cannot be loaded here" in ended.stderr
    assert "libcudart" in ended.stderr and "pip install" in ended.stderr
    assert "deploy/README.md says how to get the builds for CPUs" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.slow
def test_broken_torch_stops_only_recipes_that_train(tmp_path: Path, shipped_home: Path) -> None:
    start = ["add-classes", str(DEMO_DATA / "train/1"), "--home", str(shipped_home), "--dry-run"]
    assert _run_with_broken_torch(tmp_path, *start).returncode == 0
    refused = _run_with_broken_torch(tmp_path, *start, "--recipe", "lwm")
    assert refused.returncode == 2
    assert "recipe lwm trains the network, which needs torch" in refused.stderr
    assert refused.stderr.rstrip().endswith("or use recipe lda")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"recipe": "lwm"},
            "recipe lwm trains the network, which needs torch .* not installed here.*builds for CPUs",
        ),
        ({"recipe": "lda", "max_attention_distance": 0.5}, "max_attention_distance is set"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_before_the_photos_are_read(
    home: Home, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], problem: str
) -> None:
    monkeypatch.setattr(torch_needed, "torch_is_installed", lambda: False)
    monkeypatch.setattr(task, "read_photos", lambda *_: pytest.fail("the photos were read"))
    with pytest.raises(ConfigError, match=problem):
        add_classes(home, DEMO_DATA / "train/1", IncrementConfig(**settings), isolate=False)


@pytest.mark.parametrize("name", ["Architecture", "architecture_names", "build_base", "pack_checkpoint"])
def test_a_public_name_says_that_torch_is_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=f"{name} needs torch and torchvision, .* not installed here"):
        getattr(lwm_edge, name)


def test_a_lack_of_memory_is_not_reported_as_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_needed, "torch_is_installed", lambda: True)
    monkeypatch.setattr("builtins.__import__", _out_of_memory)
    with pytest.raises(ImportError) as refused:
        require_torch("a test needs")
    monkeypatch.undo()
    assert isinstance(known(refused.value), ResourceError)


def _out_of_memory(*_: object, **__: object) -> object:
    raise ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory")
