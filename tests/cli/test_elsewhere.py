"""On Windows, every command that only reads works, and every other one says in a sentence what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from lwm_edge import rename_class
from lwm_edge.cli.commands import app
from lwm_edge.demo import DEMO_DATA
from lwm_edge.home.home import Home
from tests.support.elsewhere import environment
from tests.support.folders import Keys, photo_folder, state_of

RUN_ALL = """
import io, json, sys
from pathlib import Path
from lwm_edge.cli.commands import main

done = []
for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    out, err = (io.TextIOWrapper(io.BytesIO(), "cp1252") for _ in "12")  # strict, as on an old console
    sys.argv, sys.stdout, sys.stderr, code = ["lwm-edge", *arguments], out, err, 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    out.flush(), err.flush()
    done.append([code, *(stream.buffer.getvalue().decode("latin-1") for stream in (out, err))])
sys.__stdout__.write(json.dumps(done))
"""
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
PHOTO = DEMO_DATA / "test" / "base" / "Sandal" / "000.png"
NAME = "Пальто ×"
READING: dict[str, list[str]] = {
    "audit": [],
    "check": [],
    "evaluate": [],
    "info": [],
    "predict": [str(PHOTO), "--top", "6"],
    "verify": [],
}
CHANGING = {
    "audit": ["--simulate", "3"],
    "check": ["-o", "page.html"],
    "inbox": ["--once", "--delete", "--quiet-for", "0"],
    **{name: [] for name in COMMANDS.keys() - READING.keys() - {"inbox"}},
}
REQUIRED = {  # values of required arguments, by name
    "arch": "small_resnet20",
    "base": "{base}",
    "bundle": "{base}",
    "checkpoint": "{base}",
    "folder": "{inbox}",
    "key": "{key}",
    "name": "Sandal",
    "new_name": "Sandale",
    "output": "new.file",
    "photos": "{photos}",
}


class Done(NamedTuple):
    """Holds the exit code of a command and what it printed, each byte as one character."""

    code: int
    out: str
    err: str


RunAll = Callable[[str, list[list[str]]], list[Done]]


@pytest.fixture
def places(trusting_home: Home, keys: Keys, tmp_path: Path) -> dict[str, str]:
    rename_class(trusting_home.path, "Coat", NAME)
    found = {
        "home": trusting_home.path,
        "base": shutil.copy(keys.base, tmp_path / "base.lwm"),
        "key": keys.vendor_key,
        "inbox": photo_folder(tmp_path / "inbox", {"Parcel": "Bag"}),
        "photos": photo_folder(tmp_path / "photos", {"Sandal": "Sandal", "Dress": "Dress"}),
    }
    return {name: str(path) for name, path in found.items()}


@pytest.fixture
def run_all(tmp_path: Path, places: dict[str, str]) -> RunAll:
    """Runs commands on a system, in an empty folder where nothing may be left behind."""

    def run(system: str, commands: list[list[str]]) -> list[Done]:
        folder, script = tmp_path / "empty", tmp_path / f"on {system}"
        folder.mkdir(exist_ok=True)
        script.mkdir()
        (tmp_path / "commands.json").write_text(
            json.dumps([[part.format(**places) for part in command] for command in commands]),
            encoding="utf-8",
        )
        before = state_of(tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL, str(tmp_path / "commands.json")],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(system, script),
            check=False,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        (script / "sitecustomize.py").unlink()
        assert state_of(tmp_path) == before
        return [Done(*each) for each in json.loads(done.stdout)]

    return run


def complete(name: str, given: list[str], home: str = "{home}") -> list[str]:
    """Adds the arguments that a command requires, and the home if it works with one."""
    command = [name, *given]
    for parameter in COMMANDS[name].params:
        option = parameter.opts[:1] if parameter.param_type_name == "option" else []
        if parameter.name == "home":
            command += [*option, home]
        elif parameter.required:  # a new command may need a new value in REQUIRED
            command += [*option, REQUIRED[str(parameter.name)]]
    return command


def test_every_command_is_tested() -> None:
    assert READING.keys() <= COMMANDS.keys() and CHANGING.keys() <= COMMANDS.keys()
    assert READING.keys() | CHANGING.keys() == COMMANDS.keys()


@pytest.mark.slow
def test_windows_runs_all_commands_that_only_read(run_all: RunAll, keys: Keys) -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    commands += [complete(name, given) for name, given in READING.items()]
    commands += [["info", "{base}"], ["verify", "{base}", "--trust", str(keys.vendor_pub)]]
    commands += [["info", "--history", "--home", "{home}"], ["export", "-", "--home", "{home}"]]
    there, here = run_all("windows", commands), run_all("linux", commands)
    for command, on_windows, on_linux in zip(commands, there, here, strict=True):
        assert on_windows.code == 0, (command, on_windows)
        printed = on_windows.out.replace("generations/00000001/classifier", "current/classifier")
        assert (printed, on_windows.err) == (on_linux.out, on_linux.err), command
    shown = there[commands.index(complete("predict", READING["predict"]))].out
    assert "Sandal" in shown and NAME.encode("cp1252", "backslashreplace").decode("latin-1") in shown
    assert "Verdict       passed" in there[commands.index(complete("verify", []))].out


@pytest.mark.slow
def test_windows_refuses_all_other_commands_in_one_sentence(run_all: RunAll) -> None:
    commands = [complete(name, given) for name, given in CHANGING.items()]
    done = run_all("windows", [*commands, *([*command, "--json"] for command in commands)])
    for command, told, in_json in zip(commands, done, done[len(commands) :], strict=False):
        assert told.code == 4 and not told.out, (command, told)
        assert told.err.startswith("Error: cannot ") and told.err.count("\n") == 1, (command, told.err)
        assert "this system has no file locks, no folder syncing, no file ownership" in told.err, command
        assert "make and change models on Linux or macOS" in told.err, command
        error = json.loads(in_json.out)["error"]
        assert in_json.code == error["exit_code"] == 4 and error["kind"] == "HomeError", (command, in_json)
        assert told.err == f"Error: {error['message']}\n", command


@pytest.mark.slow
def test_windows_says_where_to_make_a_home(run_all: RunAll) -> None:
    both = {**CHANGING, **READING}
    names = [name for name in both if any(parameter.name == "home" for parameter in COMMANDS[name].params)]
    commands = [complete(name, both[name], "nowhere") for name in names]
    for command, done in zip(commands, run_all("windows", commands), strict=True):
        assert done.code == 4 and done.err.count("\n") == 1, (command, done)
        assert "on Linux or macOS" in done.err and "lwm-edge init" not in done.err, (command, done.err)


def test_windows_prints_names_that_its_console_cannot_show(places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "lwm_edge", "predict", str(PHOTO), "--top", "6", "--home", places["home"]],
        capture_output=True,
        env={**environment("windows", tmp_path / "python"), "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert NAME.encode("cp1252", "backslashreplace") in done.stdout and os.linesep.encode() in done.stdout
