"""Each package imports only the packages that it may, and commands that do not need torch do not load it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lwm_edge
from lwm_edge import rename_class
from lwm_edge.home.home import Home
from tests.support.folders import BASE_BUNDLE, DEMO_DATA

ROOT = Path(lwm_edge.__file__).parent
MAY_IMPORT = {
    "errors": {"wording"}, "_disk": set(), "_streams": set(), "wording": set(), "characters": set(),
    "records": {"errors"}, "advice": {"errors", "records"}, "extras": {"errors"}, "_processes": {"errors"},
    "_cgroups": set(), "processors": {"_cgroups"}, "memory": {"errors", "_cgroups"}, "freed_memory": set(),
    "inspection": {"errors", "_disk"}, "durability": {"errors", "_disk", "inspection"},
    "storage": {"errors", "_disk", "inspection", "durability"},
    "outputs": {"errors", "inspection", "durability", "storage", "_streams"},
    "locks": {"errors", "_disk", "inspection", "durability"},
    "photos": set(),
    "model": {"photos"},
    "custody": {"model"},
    "learning": {"model", "photos"},
    "home": {"custody", "model", "photos"},
    "base": {"learning", "model", "photos"},
    "increment": {"home", "learning", "custody", "model", "photos"},
    "proofs": {"increment", "home", "learning", "custody", "model"},
    "pages": {"proofs", "increment", "home", "learning", "custody", "model", "photos"},
}  # fmt: skip
GROUND = {
    "errors", "_disk", "_streams", "_processes", "_cgroups", "wording", "characters", "records", "advice",
    "extras", "inspection",
    "durability", "storage", "outputs", "locks", "memory", "freed_memory", "processors",
}  # fmt: skip
ABOVE = {"cli", "demo", "__init__", "__main__"}  # these may import everything
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}


def imports_of(path: Path) -> set[str]:
    """Finds the dotted names of all modules that a module imports relatively, anywhere in its code."""
    parts, found = list(path.relative_to(ROOT).with_suffix("").parts), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level] + (node.module or "").split(".")
            for alias in node.names:
                name = ".".join(part for part in [*base, alias.name] if part)
                while name and not (ROOT / name.replace(".", "/")).with_suffix(".py").exists():
                    name = name.rpartition(".")[0]  # a symbol, not a module
                found |= {name} - {""}
    return found


IMPORTS = {".".join(p.relative_to(ROOT).with_suffix("").parts): imports_of(p) for p in ROOT.rglob("*.py")}


def test_packages_import_only_what_they_may() -> None:
    assert MAY_IMPORT.keys() | ABOVE >= PACKAGES
    against = set()
    for module, targets in IMPORTS.items():
        package = module.split(".")[0]
        if package not in ABOVE:
            allowed = MAY_IMPORT[package] | {package} | (set() if package in GROUND else GROUND)
            against |= {f"{module} -> {target}" for target in targets if target.split(".")[0] not in allowed}
    assert not against


def test_the_proofs_know_only_the_settings_of_learning() -> None:
    known = {t for m, targets in IMPORTS.items() if m.startswith("proofs.") for t in targets}
    assert {target for target in known if target.startswith("learning.")} <= {"learning.config"}


def test_there_are_no_circular_imports() -> None:
    left = {module: targets - {module} for module, targets in IMPORTS.items()}
    while leaves := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in leaves}
    assert not left


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_an_init_file_says_what_its_package_is_for_and_imports_nothing(package: str) -> None:
    init = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(init) and len(init.body) == 1


PHOTO = DEMO_DATA / "test" / "base" / "Coat" / "000.png"
NEW_PHOTOS, TEST_PHOTOS = DEMO_DATA / "train" / "1", DEMO_DATA / "test" / "base"
NEEDS_NO_TORCH = {
    "--help": ["--help"],
    "init": ["init", str(BASE_BUNDLE), "--home", "{new}"],
    "add-classes": ["add-classes", str(NEW_PHOTOS), "--home", "{home}"],
    "dry run": ["add-classes", str(NEW_PHOTOS), "--home", "{home}", "--dry-run"],
    "add-photos": ["add-photos", str(TEST_PHOTOS), "--solve-head", "--home", "{home}"],
    "undo": ["undo", "--home", "{home}"],
    "rename-class": ["rename-class", "Coat", "Mantel", "--home", "{home}"],
    "remove-class": ["remove-class", "Coat", "--shipped", "--home", "{home}"],
    "calibrate": ["calibrate", str(TEST_PHOTOS), "--home", "{home}"],
    "inbox": ["inbox", "{inbox}", "--delete", "--once", "--quiet-for", "0", "--home", "{home}"],
    "repair": ["repair", "--home", "{home}"],
    "export": ["export", "{file}", "--home", "{home}"],
    "audit": ["audit", "--home", "{home}"],
    "evaluate": ["evaluate", str(TEST_PHOTOS), "--home", "{home}"],
    "predict": ["predict", str(PHOTO), "--home", "{home}"],
    "verify": ["verify", str(BASE_BUNDLE)],
    "check": ["check", str(NEW_PHOTOS), "--home", "{home}", "-o", "{file}.html"],
    "info": ["info", "--home", "{home}"],
    "report": ["report", "{home}", "-o", "{page}"],
}
NOTES_WHAT_IS_LOADED = """
import atexit, os, sys
@atexit.register
def note():
    with open(os.environ["LOADED"], "a") as file:
        file.write("torch" if "torch" in sys.modules else "light ")
"""


@pytest.mark.parametrize("name", NEEDS_NO_TORCH)
def test_commands_that_do_not_need_torch_load_it_in_no_process(
    name: str, permitting_home: Home, tmp_path: Path
) -> None:
    home = permitting_home
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(NOTES_WHAT_IS_LOADED)
    inbox = shutil.copytree(NEW_PHOTOS / "Shirt", tmp_path / "inbox" / "Shirt").parent
    if name == "undo":
        rename_class(home, "Coat", "Mantel")
    if name == "repair":
        home.current().labels.unlink()
    places = {
        "home": home.path,
        "new": tmp_path / "new",
        "file": tmp_path / "x.onnx",
        "inbox": inbox,
        "page": tmp_path / "x.html",
    }
    command = [part.format(**places) for part in NEEDS_NO_TORCH[name]]
    result = subprocess.run(
        [sys.executable, "-m", "lwm_edge", *command],
        cwd=ROOT.parent,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path / 'python'}{os.pathsep}{ROOT.parent}",
            "LOADED": str(tmp_path / "loaded"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == (8 if name == "verify" else 0), result.stderr  # verify has no key here
    processes = 2 if name == "inbox" else 1
    assert (tmp_path / "loaded").read_text() == processes * "light "


def test_the_tests_of_class_names_load_no_torch() -> None:
    program = "import sys, tests.conftest, tests.photos.test_class_names; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
