"""The help of each command begins with an example that can be parsed, and shells complete names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lwm_edge.cli.commands import app
from lwm_edge.cli.examples import EXAMPLES
from lwm_edge.home.home import Home


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_begins_with_an_example_that_parses(name: str) -> None:
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    text = " ".join(command.get_help(typer.Context(command, info_name=name)).split())
    assert f"Example: {EXAMPLES[name]} " in text
    _, called, *arguments = shlex.split(EXAMPLES[name])
    assert called == name
    command.make_context(name, arguments)
    assert "Example" not in command.get_short_help_str()


def test_every_command_has_an_example() -> None:
    assert {command.name for command in app.registered_commands} == EXAMPLES.keys()


def _completed(words: str, folder: Path) -> list[str]:
    script = "import sys; sys.argv[0] = 'lwm-edge'; from lwm_edge.__main__ import main; main()"
    environment = {
        **os.environ,
        "_LWM_EDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.slow
def test_a_shell_completes_commands_options_classes_and_recipes(home: Home, tmp_path: Path) -> None:
    assert _completed("lwm-edge add-", tmp_path) == ["add-classes", "add-photos"]
    assert _completed("lwm-edge add-classes --det", tmp_path) == ["--details"]
    assert _completed("lwm-edge add-classes x --recipe lwm", tmp_path) == ["lwm", "lwm-lda"]
    (tmp_path / "lwm-edge.toml").write_text(f'home = "{home.path}"')
    assert _completed("lwm-edge remove-class Co", tmp_path) == ["Coat"]
    assert _completed("lwm-edge remove-class --home nowhere Co", tmp_path) == []
