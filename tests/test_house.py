"""Each package imports only those that it may, and what needs no torch loads none (see HOUSE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lwm_edge
from tests.support.folders import BASE_BUNDLE, DEMO_DATA

ROOT = Path(lwm_edge.__file__).parent
MAY_IMPORT = {
    "errors": set(), "_disk": set(), "_streams": set(), "records": {"errors"}, "memory": {"errors"},
    "storage": {"errors", "_disk", "_streams"},
    "photos": set(),
    "model": {"photos"},
    "custody": {"model"},
    "learning": {"model", "photos"},
    "home": {"custody", "model", "photos"},
    "base": {"learning", "model", "photos"},
    "increment": {"home", "learning", "custody", "model", "photos"},
    "proofs": {"increment", "home", "learning", "custody", "model"},
}  # fmt: skip
GROUND = {"errors", "_disk", "_streams", "records", "storage", "memory"}
ABOVE = {"cli", "demo", "__init__", "__main__"}  # these may import everything
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}


def imports_of(path: Path) -> set[str]:
    """Finds the modules of lwm_edge that a module imports anywhere in it, by dotted name."""
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


def test_imports_run_down_only() -> None:
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


@pytest.mark.parametrize("arguments", ["--help", "info", "predict", "verify", "class names"])
def test_what_needs_no_torch_loads_none(arguments: str, request: pytest.FixtureRequest) -> None:
    home = str(request.getfixturevalue("home").path)
    command = {
        "--help": ["--help"],
        "info": ["info", "--home", home],
        "predict": ["predict", str(PHOTO), "--home", home],
        "verify": ["verify", str(BASE_BUNDLE)],
    }
    program = "from lwm_edge.cli.commands import main; main()"
    if arguments == "class names":
        program = "import tests.conftest, tests.photos.test_class_names; print('imported')"
    code = f"import sys\nsys.argv[1:] = {command.get(arguments)!r} or []\ntry:\n    {program}"
    end = "finally:\n    sys.stderr.write('torch' if 'torch' in sys.modules else 'light')"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"], cwd=ROOT.parent, capture_output=True, text=True, check=False
    )
    assert result.stdout and result.stderr.endswith("light"), result.stderr
