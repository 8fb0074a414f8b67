"""Models can be read on Windows, and read and changed on macOS; both systems lack features of Linux."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import init_home
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.home.home import Home
from tests.support.folders import state_of

READING = """
import json, sys
from pathlib import Path
import lwm_edge as l
from lwm_edge import memory
from lwm_edge.photos.decoder_process import DECODER

home, photos, costly, bundle = map(Path, sys.argv[1:])
predicted = l.predict(home, [costly]).predictions[0]
assert DECODER._process, "it was not decoded in the other process"
file = l.Classifier(home / "current" / "classifier.onnx")
print(json.dumps({
    "predicted": predicted.class_names[0],
    "by file": file.classify([costly])[0].class_names[0],
    "from memory": file.classify([costly.read_bytes()])[0].class_names[0],
    "evaluated": l.evaluate(home, photos).photos,
    "info": [l.info(of).class_names for of in (home, bundle)],
    "verified": l.verify(bundle).problems,
    "audited": l.audit(home).problems,
    "memory": [memory.rss_bytes() > 0, memory.peak_rss_bytes() > 0],
}))
"""

CHANGING = """
import json, sys
from pathlib import Path
import lwm_edge as l

home, photos, folder, bundle = map(Path, sys.argv[1:])
changes = {
    "init": lambda: l.init_home(bundle, folder / "home"),
    "add_classes": lambda: l.add_classes(home, photos),
    "add_photos": lambda: l.add_photos(home, photos),
    "plan": lambda: l.plan_increment(home, photos),
    "remove_class": lambda: l.remove_class(home, "Coat", shipped=True),
    "rename_class": lambda: l.rename_class(home, "Coat", "Mantel"),
    "undo": lambda: l.undo(home),
    "calibrate": lambda: l.calibrate(home, photos),
    "repair": lambda: l.repair_home(home),
    "export": lambda: l.export_onnx(home, folder / "exported.onnx"),
    "keys": lambda: l.generate_key(folder / "key"),
    "simulate": lambda: l.simulate(home, 10),
}
said = {}
for name, change in changes.items():
    try:
        change()
    except l.LwmEdgeError as error:
        said[name] = [str(error), error.exit_code]
print(json.dumps(said))
"""


def run_as_if_on(system: str, script: Path, *arguments: Path) -> Any:
    command = [sys.executable, "-m", "tests.support.elsewhere", system, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


@pytest.fixture
def costly(tmp_path: Path) -> Path:
    """Makes a photo that is decoded in a separate process."""
    from PIL import Image

    with Image.open(DEMO_DATA / "test" / "base" / "Coat" / "000.png") as image:
        image.save(tmp_path / "coat.webp", lossless=True)
    return tmp_path / "coat.webp"


@pytest.mark.slow
@pytest.mark.parametrize("system", ["windows", "macos"])
def test_models_are_read(home: Home, script: Path, costly: Path, system: str) -> None:
    script.write_text(READING)
    photos = DEMO_DATA / "test" / "base"
    found = run_as_if_on(system, script, home.path, photos, costly, BASE_BUNDLE)
    assert (
        found["predicted"] == found["by file"] == found["from memory"] == "Coat" and found["evaluated"] == 300
    )
    assert found["info"][0] == found["info"][1] and found["memory"] == [True, True]
    assert found["audited"] == [] and "there is no key to verify against" in found["verified"][0]


@pytest.mark.slow
def test_windows_refuses_changes_at_once_and_says_why(home: Home, script: Path, tmp_path: Path) -> None:
    script.write_text(CHANGING)
    before, folder = state_of(home.path), tmp_path / "empty"
    folder.mkdir()
    said = run_as_if_on("windows", script, home.path, DEMO_DATA / "train" / "1", folder, BASE_BUNDLE)
    assert len(said) == 12
    for name, (message, exit_code) in said.items():
        assert "this system has no file locks, no symbolic links" in message and exit_code == 4, name
        assert "\n" not in message and "here, they can be read (predict" in message, name
    assert state_of(home.path) == before and not list(folder.iterdir())


@pytest.mark.slow
def test_macos_changes_models(tmp_path: Path, script: Path) -> None:
    script.write_text(
        "import sys, json, lwm_edge as l\n"
        "home, photos, bundle = sys.argv[1:]\n"
        "l.init_home(bundle, home)\n"
        "added = l.add_classes(home, photos, isolate=False)\n"
        "l.rename_class(home, 'Sneaker', 'Turnschuh')\n"
        "print(json.dumps([l.info(home).class_names[-1], l.audit(home).problems]))"
    )
    photos = DEMO_DATA / "train" / "1"
    assert run_as_if_on("macos", script, tmp_path / "home", photos, BASE_BUNDLE) == ["Turnschuh", []]
    init_home(BASE_BUNDLE, tmp_path / "home", replace=True)
