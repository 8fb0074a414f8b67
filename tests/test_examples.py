"""Runs the examples, except 01 and 02 (`test_pages.py`) and 08 (`.ci/extended`)."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import add_classes, build_base, info
from lwm_edge.base.config import BaseConfig
from lwm_edge.home.home import Home
from tests.support.folders import DEMO_DATA, photo_folder
from tests.support.pages import ROOT, read

EXAMPLES = ROOT / "examples"
BAG = DEMO_DATA / "test" / "2" / "Bag" / "000.png"


def run(name: str, *arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_page_lists_every_example() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if re.match(r"\d\d_", path.name)}
    listed = set(re.findall(r"\]\((\d\d_[\w.]+)", read("examples/README.md")))
    assert {name.partition("/")[0] for name in listed} == there


@pytest.mark.extended
def test_a_vendor_ships_a_base(tmp_path: Path) -> None:
    printed = run("03_ship_a_base.py", tmp_path)
    assert "Bag" in printed and printed.splitlines()[-1] == "Verified"


@pytest.mark.extended
def test_an_app_shows_progress_cancels_and_loads_again(tmp_path: Path) -> None:
    printed = run("04_app_with_progress.py", tmp_path / "home")
    assert "still knows 6 classes" in printed and "commit" in printed and "shows a Bag" in printed


def test_a_web_service_answers_and_loads_the_new_model(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")

    monkeypatch.setenv("LWM_EDGE_HOME", str(home.path))
    service = runpy.run_path(str(EXAMPLES / "05_web_service.py"))

    def ask(method: str, path: str, content: bytes = b"") -> Any:
        async def send() -> Any:
            transport = httpx.ASGITransport(app=service["app"])
            async with httpx.AsyncClient(transport=transport, base_url="http://device") as client:
                return await client.request(method, path, content=content)

        return asyncio.run(send())

    assert len(ask("GET", "/classes").json()["class_names"]) == 6
    add_classes(home, photo_folder(tmp_path / "photos", {"Bag": "Bag"}), isolate=False)
    answer = ask("POST", "/classify", BAG.read_bytes()).json()
    assert answer["class_names"][0] == "Bag" and answer["model_digest"] == info(home).model_digest
    refused = ask("POST", "/classify", b"no picture")
    assert refused.status_code == 422 and "the photo" in refused.json()["detail"]
    assert ask("POST", "/classify", bytes(17 * 2**20)).status_code == 413


@pytest.mark.extended
def test_a_vendors_own_backbone_makes_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shutil.copytree(EXAMPLES / "06_custom_backbone", tmp_path / "source")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    installed = subprocess.run(
        [*command, "--target", site, source], capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stderr
    monkeypatch.syspath_prepend(str(site))
    config = BaseConfig(architecture="my_net", epochs=1, capacity=16, grid=0)
    report = build_base(DEMO_DATA / "train" / "base", tmp_path / "base.lwm", config)
    assert report.architecture == "my_net" and info(tmp_path / "base.lwm").architecture == "my_net"


_WITHOUT_OTHER_LIBRARIES = """
import runpy, sys
for name in "lwm_edge onnx torch torchvision pydantic typer psutil safetensors cryptography".split():
    sys.modules[name] = None  # importing it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_app_with_only_onnxruntime_loads_the_new_model(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    example = runpy.run_path(str(EXAMPLES / "07_onnxruntime_alone.py"))
    model = example["CurrentModel"](str(home.path))
    assert not model.reload() and "Bag" not in model.class_names
    add_classes(home, photo_folder(tmp_path / "photos", {"Bag": "Bag"}), isolate=False)
    assert model.reload() and model.classify(str(BAG))[0] == "Bag"

    printed = subprocess.run(
        [
            sys.executable,
            "-c",
            _WITHOUT_OTHER_LIBRARIES,
            EXAMPLES / "07_onnxruntime_alone.py",
            home.path,
            BAG,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.startswith(f"{BAG}: Bag ")


@pytest.mark.slow
def test_an_inbox_is_watched(home: Home, tmp_path: Path) -> None:
    photo_folder(tmp_path / "inbox", {"Bag": "Bag"})
    printed = run("09_inbox.py", home.path, tmp_path / "inbox", tmp_path / "taught")
    assert "Learnt Bag from 8 photos" in printed and printed.splitlines()[-1].endswith("Bag")
