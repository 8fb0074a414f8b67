"""Imitates another system for lwm_edge: hides the modules, functions and files that the system does not have.

Which names a system lacks is read from typeshed, the stubs of the standard library that come with mypy. They
are hidden from lwm_edge alone, because other libraries have separate builds for each system.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
SYSTEMS = {"windows": ("win32", "nt"), "macos": ("darwin", "posix")}  # values of sys.platform and os.name
_ONLY_LINUX_HAS = ("/proc/", "/sys/")
_READ_BY_PATH = ("exists", "is_file", "is_dir", "stat", "open", "read_text", "read_bytes", "write_text")


def environment(system: str, folder: Path) -> dict[str, str]:
    """Returns environment variables with which Python and the processes that it starts imitate a system.

    Args:
        system: "windows", "macos", or "linux", which leaves everything as it is.
        folder: Empty folder for temporary files, and for a file that Python runs when it starts.
    """
    code, others = "", {name: value for name, value in os.environ.items() if name != "LWM_EDGE_HOME"}
    if system in SYSTEMS:
        code = f"from tests.support.elsewhere import imitate\nimitate({system!r})\n"
        others["PYTHONWARNDEFAULTENCODING"] = "1"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {
        **others,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
    }


def imitate(system: str) -> None:
    """Hides from lwm_edge what the system lacks, and makes it an error to open text without an encoding."""
    import warnings

    platform, name = SYSTEMS[system]
    _hide_names(platform, {("sys", "platform"): platform, ("os", "name"): name})
    _hide_files()
    if system == "windows":
        _write_links_with_backslashes()
    warnings.filterwarnings("ignore", category=EncodingWarning)
    warnings.filterwarnings("error", category=EncodingWarning, module=r"lwm_edge\.|tests\.support\.")


@cache
def names_in(module: str, platform: str) -> frozenset[str]:
    """Lists the names that a standard module has on a platform; none if the platform lacks the module."""
    return frozenset(_declared(ast.parse(_declarations(module)).body, platform))


@cache
def _declarations(module: str) -> str:
    """Returns typeshed's stub of a module; an empty text if the module is not in the standard library."""
    (mypy,) = importlib.util.find_spec("mypy").submodule_search_locations  # type: ignore[union-attr, misc]
    path = Path(mypy, "typeshed", "stdlib", *module.split("."))
    found = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    return found.read_text(encoding="utf-8") if found.exists() else ""


def _declared(body: list[ast.stmt], platform: str) -> set[str]:
    """Lists the names that statements define on a platform."""
    names: set[str] = set()
    this = SimpleNamespace(platform=platform, version_info=sys.version_info)
    for node in body:
        if isinstance(node, ast.If):
            is_so = eval(compile(ast.Expression(node.test), "", "eval"), {"sys": this, "TYPE_CHECKING": True})
            names |= _declared(node.body if is_so else node.orelse, platform)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _without(module: ModuleType, hidden: frozenset[str], values: dict[str, str]) -> ModuleType:
    """Makes a stand-in for a standard module, with names hidden and some values replaced."""

    class Seen(ModuleType):
        """Stands for the module."""

        def __getattribute__(self, name: str) -> Any:
            if name in hidden:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r} here")
            return values.get(name) or getattr(module, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(module, name, value)

    return Seen(module.__name__)


def _hide_names(platform: str, values: dict[tuple[str, str], str]) -> None:
    """Changes what `import` gives to the modules of lwm_edge."""
    real = builtins.__import__

    @cache
    def seen(name: str) -> ModuleType:
        """Returns a module as it is on the platform."""
        there = names_in(name, platform)
        if not there:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        own = {attribute: value for (module, attribute), value in values.items() if module == name}
        return _without(real(name), names_in(name, "linux") - there, own)

    def imports(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Imports a module; lwm_edge gets it as it is on the platform."""
        is_ours = str((globals or {}).get("__name__")).partition(".")[0] == "lwm_edge"
        if is_ours and level == 0 and "sys.platform" in _declarations(name):
            return seen(name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = imports


def _write_links_with_backslashes() -> None:
    real = Path.readlink
    Path.readlink = lambda self: PureWindowsPath(real(self))  # type: ignore[assignment, method-assign, return-value]


def _hide_files() -> None:
    """Hides /proc and /sys from code that uses Path, but not from psutil, which has separate builds."""

    def hidden(name: str) -> Any:
        """Makes a method of Path that does not find the hidden files."""
        method = getattr(Path, name)

        def found(self: Path, *given: Any, **named: Any) -> Any:
            """Looks for the file unless only Linux has it."""
            if not str(self).startswith(_ONLY_LINUX_HAS):
                return method(self, *given, **named)
            if name in ("exists", "is_file", "is_dir"):
                return False
            raise FileNotFoundError(2, "No such file or directory", str(self))

        return found

    for name in _READ_BY_PATH:
        setattr(Path, name, hidden(name))
