"""No change (even one that fails), plan or `init` deletes anything that this program did not make.

tests/README.md publishes the counts.
"""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import lwm_edge
from lwm_edge import (
    add_classes,
    audit,
    export_onnx,
    init_home,
    inspection,
    plan_increment,
    remove_class,
    repair_home,
)
from lwm_edge.demo import BASE_BUNDLE, _start_over
from lwm_edge.errors import ConfigError, HomeError
from lwm_edge.home.home import Home
from tests.support.folders import PhotoMaker, state_of
from tests.support.hostile import published, refusing_to_read
from tests.support.samples import QUICK

LDA = QUICK.model_copy(update={"recipe": "lda"})


def _fill(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"precious")
    return path.parent


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


FOREIGN = "a foreign file, folder, link or pipe"
PLANTED: dict[str, Callable[[Path], object]] = {
    "a folder of photos": lambda g: _fill(g / "familyphotos" / "2024" / "beach.jpg"),
    "a file": lambda g: _fill(g / "notes.txt"),
    "a backup of a model": lambda g: shutil.copytree(g / "00000000", g / "backup"),
    "a backup with a later number": lambda g: shutil.copytree(g / "00000000", g / "00000099"),
    "labels in a folder named after a day": lambda g: _fill(g / "20240101" / "labels.txt"),
    "a bundle in a folder named after a day": lambda g: _fill(g / "20240102" / "model.lwm"),
    "an empty folder named after a day": lambda g: (g / "20240103").mkdir(),
    "a generation with one more file in it": lambda g: _fill(g / "00000002" / "thesis.txt"),
    "a generation with a folder in it": lambda g: _fill(g / "00000003" / "model.lwm" / "thesis.txt"),
    "a generation with a link in it": lambda g: _link(g / "00000004" / "model.lwm", g.parent / "lock"),
    "a generation with a pipe in it": lambda g: _pipe(g / "00000005" / "labels.txt"),
    "nine digits": lambda g: _fill(g / "000000006" / "model.lwm"),
    "digits of another script": lambda g: _fill(g / "٠٠٠٠٠٠٠٧" / "model.lwm"),
    "a link in place of a generation": lambda g: _link(g / "00000008", _fill(g.parents[1] / "x" / "y")),
    "a file in place of a generation": lambda g: _fill(g / "00000009"),
    "a file beside the current model's": lambda g: _fill(g / "00000000" / "thesis.txt"),
    "a file with the name of a checkpoint": lambda g: _fill(g.parent / "training.safetensors"),
    "a diary in the home": lambda g: _fill(g.parent / "diary" / "may.txt"),
}
REFUSED: dict[str, Callable[[Path], object]] = {
    "a folder with the name of a staged file": lambda g: _fill(g.parent / ".vendor.pub.lwm-edge" / "a"),
    "a link with the name of a staged file": lambda g: _link(g.parent / ".vendor.pub.lwm-edge", g / "x"),
    "a link with the name of a staged link": lambda g: _link(g.parent / ".current.lwm-edge", g / "x"),
    "a file with the name of a staged link": lambda g: _fill(g.parent / ".current.lwm-edge"),
    "a pipe named like a staged checkpoint": lambda g: _pipe(g.parent / ".training.safetensors.lwm-edge"),
}


def _failing(home: Home, photos: Path) -> None:
    with pytest.raises(ConfigError):
        remove_class(home, "Nonexistent")


CHANGES: dict[str, Callable[[Home, Path], Any]] = {
    "add_classes": lambda home, photos: add_classes(home, photos, LDA, isolate=False),
    "add_classes, trained": lambda home, photos: add_classes(home, photos, QUICK, isolate=False),
    "plan_increment": lambda home, photos: plan_increment(home, photos, LDA),
    "remove_class": lambda home, photos: remove_class(home, "Coat", shipped=True),
    "remove_class of none": _failing,
    "repair_home": lambda home, photos: repair_home(home),
    "init_home": lambda home, photos: init_home(BASE_BUNDLE, home.path, replace=True),
}


@pytest.mark.slow
def test_every_change_leaves_alone_and_names_what_is_not_ours(
    shipped_home: Path, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Bag")
    for name, change in CHANGES.items():
        home, planted = _planted(tmp_path / name, shipped_home, *PLANTED.values())
        report = change(home, photos)
        now = state_of_all(tmp_path / name)
        assert {path: now.get(path) for path in planted} == planted, name
        named = [
            path for path in planted if any(path in line for line in home.describe_foreign(max_listed=1000))
        ]
        assert len(named) >= len(PLANTED)
        assert report is None or any("left alone" in line for line in report.warnings), name
        assert not audit(home).passed
    tried = len(CHANGES) * len(PLANTED)
    assert published(f"| {FOREIGN} in a home, during each change | {tried} | nothing |")


def test_what_is_in_the_way_of_a_change_is_left_alone_and_named(
    shipped_home: Path, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    for what, plant in REFUSED.items():
        home, _ = _planted(tmp_path / what, shipped_home, plant)
        before = state_of_all(tmp_path / what)
        for name in ("add_classes", "remove_class", "init_home"):
            with pytest.raises(HomeError, match="left alone"):
                CHANGES[name](home, tmp_path / "nowhere")
            now = state_of_all(tmp_path / what)
            assert now == before, (what, name)
    tried = 3 * len(REFUSED)
    assert published(f"| {FOREIGN} where a change must write, which is refused | {tried} | nothing |")


def _planted(
    root: Path, shipped_home: Path, *plants: Callable[[Path], object]
) -> tuple[Home, dict[str, str]]:
    """Makes a home, plants things in it, and returns the home and the state of these things."""
    home = Home(root / "home")
    shutil.copytree(shipped_home, home.path, symlinks=True)
    before = state_of_all(root)
    for plant in plants:
        plant(home.path / "generations")
    return home, {path: state for path, state in state_of_all(root).items() if path not in before}


def state_of_all(folder: Path) -> dict[str, str]:
    """Works like `state_of`, but opens nothing that could block."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        kind = inspection.kind_at(path)
        content = path.read_text("latin-1") if kind == "a file" else ""
        found[str(path)] = f"{kind} {path.readlink() if path.is_symlink() else content}"
    return found


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_generations_behind_a_link_are_refused(
    home: Home, tmp_path: Path, make_photos: PhotoMaker, change: Callable[[Home, Path], object]
) -> None:
    (home.path / "generations").rename(tmp_path / "bigdisk")
    (tmp_path / "bigdisk" / "familyphotos").mkdir()
    (home.path / "generations").symlink_to(tmp_path / "bigdisk")
    before = state_of(tmp_path)
    photos = make_photos("Bag", folder="new")
    with pytest.raises(HomeError, match="generations is a link, but must be a folder inside the home"):
        (lambda: remove_class(home, "Nonexistent"))() if change is _failing else change(home, photos)
    shutil.rmtree(tmp_path / "new")
    assert state_of(tmp_path) == before


@pytest.mark.parametrize(
    "there",
    [
        "generations/run1/thesis.txt",
        "generations/00000000/thesis.txt",
        "generations/notes.txt",
        "vendor.pub",
        "lock",
        "lock vendor.pub",
        "lock generations/20240101/model.lwm",
        "lock generations/20240101/labels.txt .vendor.pub.lwm-edge",
        "training.safetensors",
        "current/index.html",
        ".vendor.pub.lwm-edge/a",
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_init_over_something_else_is_refused(tmp_path: Path, there: str, replace: bool) -> None:
    for name in there.split():
        _fill(tmp_path / "project" / name)
    if " " in there:
        (tmp_path / "project" / "lock").write_bytes(b"")
    before = state_of(tmp_path)
    with pytest.raises(HomeError, match="is not a model home; choose a new or empty folder") as caught:
        init_home(BASE_BUNDLE, tmp_path / "project", replace=replace)
    assert there.split()[-1].split("/")[0] in str(caught.value) or " " in there
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("release", ["releases/7", "generations/20240101", "generations/00000007"])
def test_init_over_another_programs_link_is_refused(tmp_path: Path, release: str) -> None:
    """Deployment tools for web sites use this layout."""
    _fill(tmp_path / "site" / release / "index.html")
    (tmp_path / "site" / "generations" / "20240202").mkdir(parents=True)
    (tmp_path / "site" / "current").symlink_to(release)
    before = state_of(tmp_path)
    with pytest.raises(HomeError, match="is not a model home"):
        init_home(BASE_BUNDLE, tmp_path / "site", replace=True)
    assert state_of(tmp_path) == before


def test_init_does_not_start_over_a_model_whose_link_was_lost(home: Home) -> None:
    remove_class(home, "Coat", shipped=True)
    (home.path / "current").unlink()
    before = state_of(home.path)
    with pytest.raises(HomeError, match="to keep it, run: lwm-edge repair"):
        init_home(BASE_BUNDLE, home.path)
    with pytest.raises(HomeError):
        _start_over(home.path)
    assert state_of(home.path) == before
    repair_home(home.path)
    assert "Coat" not in home.open_bundle().manifest.class_names
    (home.path / "current").unlink()
    init_home(BASE_BUNDLE, home.path, replace=True)
    assert "Coat" in home.open_bundle().manifest.class_names and audit(home).passed


def test_a_home_that_lost_its_bundle_is_started_over_only_when_told_to(home: Home) -> None:
    for damage in (lambda path: path.write_bytes(b"x" * 100), lambda path: path.unlink()):
        damage(home.current().bundle)
        before = state_of(home.path)
        with pytest.raises(HomeError, match="pass --replace"):
            init_home(BASE_BUNDLE, home.path)
        assert state_of(home.path) == before
        report = init_home(BASE_BUNDLE, home.path, replace=True)
        assert (
            not report.warnings
            and audit(home).passed
            and len(list((home.path / "generations").iterdir())) == 1
        )


def test_a_repair_keeps_the_checkpoint_of_an_interrupted_increment(home: Home) -> None:
    header = b'{"parent_digest": "0", "job": "1", "step": 2}'.ljust(4096)
    home.training.write_bytes(save({"header": np.frombuffer(header, dtype=np.uint8)}))
    home.current().labels.unlink()
    assert repair_home(home).repaired and home.training.exists()


def test_an_export_writes_over_no_file_of_a_model(home: Home, tmp_path: Path) -> None:
    base = Path(shutil.copy(BASE_BUNDLE, tmp_path / "base.lwm"))
    before = state_of(tmp_path)
    for source, output in (
        (base, base),
        (home, home.current().bundle),
        (base, home.onnx),
        (home, home.path / "lock"),
    ):
        with pytest.raises(ConfigError, match=r"it is the bundle itself|it is in the model home"):
            export_onnx(source, output)
    assert state_of(tmp_path) == before


def test_repairing_a_folder_that_is_no_home_leaves_nothing_behind(tmp_path: Path) -> None:
    _fill(tmp_path / "generations" / "20240101" / "model.lwm")
    before = state_of(tmp_path)
    with pytest.raises(HomeError):
        repair_home(tmp_path)
    assert state_of(tmp_path) == before
    (tmp_path / "current").symlink_to("generations/20240101")
    before = state_of(tmp_path)
    with pytest.raises(HomeError):
        repair_home(tmp_path)
    assert state_of(tmp_path) == before


def test_no_generation_gets_a_number_above_the_last_one(home: Home) -> None:
    (home.path / "generations" / "00000000").rename(home.path / "generations" / "99999999")
    (home.path / "current").unlink()
    (home.path / "current").symlink_to("generations/99999999")
    with pytest.raises(HomeError, match="no free number up to 99999999"):
        remove_class(home, "Coat", shipped=True)
    assert "Coat" in home.open_bundle().manifest.class_names


def test_a_tensor_called_header_does_not_make_a_file_a_checkpoint(home: Home) -> None:
    home.training.write_bytes(save({"header": np.zeros(8, dtype=np.uint8)}))
    remove_class(home, "Coat", shipped=True)
    assert home.training.exists() and home.describe_foreign()


def test_a_lock_that_is_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    (home.path / "lock").unlink(missing_ok=True)
    (home.path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeError, match="cannot lock"):
        remove_class(home, "Coat", shipped=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_number_that_is_taken_by_something_else_is_not_used(home: Home) -> None:
    _fill(home.path / "generations" / "00000001")  # a file
    remove_class(home, "Coat", shipped=True)
    assert home.current().path.name == "00000002"


@pytest.mark.parametrize("name", ["vendor.pub", "training.safetensors"])
def test_what_cannot_be_read_is_not_called_foreign(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (home.path / name).write_bytes(b"perhaps ours")
    monkeypatch.setattr(inspection, "read_regular", refusing_to_read(home.path / name))
    (told,) = home.describe_foreign()
    assert f"{name} cannot be read (Permission denied)" in told and "move it" not in told
    problems = [problem for problem in audit(home).problems if name in problem]
    assert problems and not any("move it" in problem for problem in problems)


def test_many_foreign_folders_are_counted(home: Home) -> None:
    for number in range(40):
        _fill(home.path / f"stranger {number}" / "a")
    assert len(home.describe_foreign()) == 6
    assert home.describe_foreign()[-1].startswith("the same is true of 35 more in ")


def test_a_name_that_is_not_utf8_can_be_reported(home: Home) -> None:
    (home.path / os.fsdecode(b"caf\xe9")).mkdir()
    report = remove_class(home, "Coat", shipped=True)
    assert "caf\\xe9 is a folder" in report.warnings[0] and report.model_dump_json()


# The tests below find calls that bypass the few functions that may write and remove files.

PACKAGE = Path(lwm_edge.__file__).parent
CALLS = {
    "unlink", "rmdir", "rmtree", "remove", "removedirs", "rename", "renames", "write_bytes", "write_text",
    "touch", "mkdir", "makedirs", "symlink_to", "hardlink_to", "symlink", "link", "mkfifo", "mknod",
    "truncate", "chmod", "chown", "tofile", "save_file", "savefig", "NamedTemporaryFile", "mkstemp",
    "mkdtemp", "copyfile", "copytree", "copy2", "move",
}  # fmt: skip
ALLOWED = {
    ("memory", "write_text"): "/proc/self/clear_refs",
    ("decoder", "write_text"): "/proc/self/clear_refs",
    ("plots", "savefig"): "into memory",
    ("charts", "savefig"): "into memory",
    ("in_memory", "write_bytes"): "into a temporary folder, for the process that decodes costly photos",
    ("manifest", "remove"): "removes from a list",
    ("cost", "remove"): "removes a module's hook",
    ("lowering", "remove"): "removes from a list of nodes",
    ("variants", "remove"): "removes from a list of nodes",
    ("variants", "write_bytes"): "into a temporary folder, for ONNX Runtime's tools",
}
OPENING = {
    "_disk": "for storage",
    "_streams": "the null device",
    "memory": "a kernel counter",
    "freed_memory": "the kernel's list of pages, for reading",
    "guard": "a photo, for reading, unbuffered",
    "decoder": "a pipe",
    "in_memory": "memory that has a path",
    "worker": "a pipe",
    "simulation": "a pipe",
    "process": "a pipe",
}


def _writing_opens(tree: ast.AST) -> list[str]:
    """Finds calls to open, os.open and the like that are not plainly for reading."""
    found = []
    for node in ast.walk(tree):
        name = node.func if isinstance(node, ast.Call) else None
        called = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
        if isinstance(node, ast.Call) and called in ("open", "fdopen", "FileIO"):
            modes = [
                a.value
                for a in [*node.args, *(k.value for k in node.keywords)]
                if isinstance(a, ast.Constant)
            ]
            image = ast.unparse(node.func) == "Image.open"
            if (not image and modes not in ([], ["rb"], ["r"])) or ast.unparse(node.func) in (
                "os.open",
                "FileIO",
            ):
                found.append(ast.unparse(node))
    return found


def _calls(tree: ast.AST) -> list[tuple[str, str]]:
    """Names each call's object and function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.append((ast.unparse(node.func.value), node.func.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append(("", node.func.id))
    return found


def _modules() -> list[tuple[str, ast.AST]]:
    return [(path.stem, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def test_only_the_modules_for_storage_change_what_is_on_disk() -> None:
    around = [
        (module, on, call)
        for module, tree in _modules()
        for on, call in _calls(tree)
        if call in CALLS and module != "_disk" and on != "_disk" and (module, call) not in ALLOWED
    ]
    assert not around
    opens = {module: _writing_opens(tree) for module, tree in _modules() if _writing_opens(tree)}
    assert opens.keys() <= OPENING.keys(), opens
    for module, tree in _modules():
        uses_disk = any(on == "_disk" for on, _ in _calls(tree))
        assert not uses_disk or module in ("inspection", "durability", "storage", "locks", "_disk"), module


def test_only_five_modules_remove_files() -> None:
    removing = {"remove_file", "remove_link", "remove_folder"}
    callers = {module for module, tree in _modules() for _, call in _calls(tree) if call in removing}
    # storage removes its own staged files; inbox_folder removes its notes and, if the owner says so, photos;
    # inbox_moves removes a photo if the same one is already where it is to be moved;
    # saved_training removes a file only after reading it and recognising it as its own
    assert callers == {"ownership", "saved_training", "storage", "inbox_folder", "inbox_moves"}


def test_only_what_a_user_names_is_written_through_links() -> None:
    callers = {m for m, tree in _modules() for node in ast.walk(tree)
               if (isinstance(node, ast.Attribute) and node.attr == "write_output")
               or (isinstance(node, ast.Name) and node.id == "write_output") }  # fmt: skip
    assert callers == {"doctor", "finish", "signing", "export", "plots", "report"}


def test_the_search_finds_calls_that_write_or_remove() -> None:
    tree = ast.parse("import shutil, os\nshutil.rmtree(x)\nPath(y).unlink()\nos.remove(z)\nopen(x, 'w')")
    assert {call for _, call in _calls(tree)} & CALLS == {"rmtree", "remove", "unlink"}
    assert _writing_opens(tree) == ["open(x, 'w')"]
