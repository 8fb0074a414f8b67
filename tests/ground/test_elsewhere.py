"""On Windows, models can be read but not changed; macOS works without the features that only Linux has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import init_home
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.home.home import Home
from tests.support.elsewhere import environment, names_in
from tests.support.folders import Keys, state_of

READ = """
import json, sys
from pathlib import Path
import lwm_edge as l
from lwm_edge import memory
from lwm_edge.photos.decoder_process import DECODER

home, photos, costly, bundle = map(Path, sys.argv[1:])
predicted = l.predict(home, [costly]).predictions[0]
assert DECODER._process, "it was not decoded in the other process"
file = l.Classifier(l.open_home(home).onnx)
print(json.dumps({
    "predicted": predicted.class_names[0],
    "by file": file.classify([costly])[0].class_names[0],
    "from memory": file.classify([costly.read_bytes()])[0].class_names[0],
    "prepared": str(l.prepare_photo(costly, file.preprocessing).shape),
    "evaluated": l.evaluate(home, photos).photos,
    "checked": list(l.check_photos(home, photos).class_photos),
    "info": [l.info(of).class_names for of in (home, bundle)],
    "verified": [l.verify(home).problems, l.verify(bundle).problems],
    "audited": l.audit(home).problems,
    "memory": [memory.rss_bytes() > 0, memory.peak_rss_bytes() > 0],
}))
"""
READING = {
    "architecture_names", "audit", "check_photos", "evaluate", "info", "open_home", "predict",
    "prepare_photo", "verify", "watch",
}  # fmt: skip

CHANGE = """
import json, sys
from inspect import isfunction
from pathlib import Path
import lwm_edge as l

home, photos, folder, bundle, key, inbox = map(Path, sys.argv[1:])
new, page, taught = folder / "new", folder / "page.html", folder / "taught"
findings = l.check_photos(home, photos)
changes = {
    "add_classes": lambda: l.add_classes(home, photos),
    "add_classes_with_page": lambda: l.add_classes_with_page(home, photos, page),
    "add_photos": lambda: l.add_photos(home, photos),
    "build_base": lambda: l.build_base(photos, new, l.BaseConfig(architecture="small_resnet20")),
    "calibrate": lambda: l.calibrate(home, photos),
    "export_onnx": lambda: l.export_onnx(home, new),
    "generate_key": lambda: l.generate_key(new),
    "init_home": lambda: l.init_home(bundle, new),
    "pack_checkpoint": lambda: l.pack_checkpoint(bundle, photos, new, l.PackConfig(architecture="resnet18")),
    "plan_increment": lambda: l.plan_increment(home, photos),
    "remove_class": lambda: l.remove_class(home, "Coat", shipped=True),
    "rename_class": lambda: l.rename_class(home, "Coat", "Mantel"),
    "repair_home": lambda: l.repair_home(home),
    "run_demo": lambda: l.run_demo(new),
    "sign_bundle": lambda: l.sign_bundle(bundle, key),
    "simulate": lambda: l.simulate(home, 10),
    "teach_inbox": lambda: l.teach_inbox(home, inbox, taught=taught, quiet_seconds=0),
    "undo": lambda: l.undo(home),
    "watch_inbox": lambda: l.watch_inbox(home, inbox, taught=taught, quiet_seconds=0, on_report=print),
    "write_check_page": lambda: l.write_check_page(findings, page),
    "write_report": lambda: l.write_report(home, page),
}
said = {}
for name, change in changes.items():
    try:
        change()
    except l.LwmEdgeError as error:
        said[name] = [str(error), error.exit_code]
public = [name for name in l.__all__ if isfunction(getattr(l, name))]
print(json.dumps([said, public]))
"""


@pytest.fixture
def run_as_on(tmp_path: Path) -> Callable[..., Any]:
    """Runs a script in a process that imitates another system, and returns the JSON that it prints."""

    def run(system: str, script: str, *arguments: Path) -> Any:
        (tmp_path / system).mkdir()
        command = [sys.executable, "-c", script, *map(str, arguments)]
        variables = environment(system, tmp_path / system)
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def costly(tmp_path: Path) -> Path:
    """Makes a photo that is decoded in a separate process."""
    from PIL import Image

    with Image.open(DEMO_DATA / "test" / "base" / "Coat" / "000.png") as image:
        image.save(tmp_path / "coat.webp", lossless=True)
    return tmp_path / "coat.webp"


def test_typeshed_knows_what_other_systems_lack() -> None:
    windows, macos, linux = (names_in("os", platform) for platform in ("win32", "darwin", "linux"))
    assert {"fork", "fchown", "fchmod", "geteuid", "O_DIRECTORY", "O_NOFOLLOW", "statvfs"} <= linux - windows
    assert {"sched_getaffinity", "memfd_create", "listxattr", "O_PATH"} <= linux - windows - macos
    # Of these, only symlink needs a permission on Windows.
    assert {"symlink", "readlink", "fsync", "getpid"} <= windows
    assert not names_in("fcntl", "win32") | names_in("resource", "win32") and names_in("fcntl", "darwin")
    assert not {"SIGKILL", "SIGXCPU", "pthread_sigmask"} & names_in("signal", "win32")


@pytest.mark.slow
@pytest.mark.parametrize("system", ["windows", "macos"])
def test_models_are_read(trusting_home: Home, keys: Keys, run_as_on: Any, costly: Path, system: str) -> None:
    home, photos = trusting_home.path, DEMO_DATA / "test" / "base"
    found = run_as_on(system, READ, home, photos, costly, keys.base)
    assert found["predicted"] == found["by file"] == found["from memory"] == "Coat"
    assert found["evaluated"] == 300 and len(found["checked"]) == 6 and found["prepared"] == "(28, 28, 3)"
    assert found["info"][0] == found["info"][1] and found["memory"] == [True, True]
    passed, without_key = found["verified"]
    assert found["audited"] == passed == [] and "there is no key to verify against" in without_key[0]


LOST_LINKS = {
    "gone": lambda link, model: None,
    "a file": lambda link, model: link.write_text("generations/00000000"),
    "a folder": lambda link, model: shutil.copytree(model, link),
}


@pytest.mark.slow
@pytest.mark.parametrize("link", LOST_LINKS)
def test_windows_reads_a_home_that_was_copied_without_its_link(
    trusting_home: Home, run_as_on: Any, costly: Path, link: str
) -> None:
    home = trusting_home.path
    (home / "current").unlink()
    LOST_LINKS[link](home / "current", home / "generations" / "00000000")
    found = run_as_on("windows", READ, home, DEMO_DATA / "test" / "base", costly, BASE_BUNDLE)
    assert found["predicted"] == found["by file"] == "Coat" and found["verified"][0] == []
    assert any("current" in problem for problem in found["audited"])


@pytest.mark.slow
def test_windows_refuses_changes_at_once_and_says_why(
    home: Home, keys: Keys, run_as_on: Any, tmp_path: Path
) -> None:
    folder, inbox = tmp_path / "empty", tmp_path / "inbox"
    folder.mkdir()
    shutil.copytree(DEMO_DATA / "train" / "1" / "Shirt", inbox / "Shirt")
    base = Path(shutil.copy(keys.base, tmp_path / "base.lwm"))
    before = state_of(tmp_path)
    arguments = (home.path, DEMO_DATA / "train" / "1", folder, base, keys.vendor_key, inbox)
    said, public = run_as_on("windows", CHANGE, *arguments)
    assert said.keys() | READING == set(public), "each public function either reads or is refused"
    for name, (message, exit_code) in said.items():
        assert "this system has no file locks, no folder syncing, no file ownership" in message, name
        assert exit_code == 4 and "\n" not in message, name
        assert "here, you can only read them (predict" in message, name
    (tmp_path / "windows" / "sitecustomize.py").unlink()
    (tmp_path / "windows").rmdir()  # nothing else is left in the folder for temporary files
    assert state_of(tmp_path) == before


@pytest.mark.slow
def test_macos_changes_models(tmp_path: Path, run_as_on: Any) -> None:
    script = (
        "import sys, json, lwm_edge as l\n"
        "home, photos, bundle = sys.argv[1:]\n"
        "l.init_home(bundle, home)\n"
        "l.add_classes(home, photos)\n"
        "l.rename_class(home, 'Sneaker', 'Turnschuh')\n"
        "print(json.dumps([l.info(home).class_names[-1], l.audit(home).problems]))"
    )
    photos = DEMO_DATA / "train" / "1"
    assert run_as_on("macos", script, tmp_path / "home", photos, BASE_BUNDLE) == ["Turnschuh", []]
    init_home(BASE_BUNDLE, tmp_path / "home", replace=True)
