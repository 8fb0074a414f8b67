"""The inbox's service runs a command that exists, is hardened as the page states, and can be installed."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lwm_edge.cli.commands import app
from tests.support.folders import BASE_BUNDLE
from tests.support.pages import ROOT, prose

UNITS = ROOT / "deploy" / "systemd"
SERVICE, TIMER = UNITS / "lwm-edge-inbox.service", UNITS / "lwm-edge-inbox.timer"


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


def test_the_service_runs_a_command_that_exists() -> None:
    service = unit(SERVICE)["Service"]
    program, name, *arguments = shlex.split(service["ExecStart"])
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, arguments).params
    assert (
        program == "/opt/lwm-edge/bin/lwm-edge" and given["once"] and given["taught"] and not given["delete"]
    )
    assert Path(given["folder"]).is_relative_to(service["ReadWritePaths"])
    assert service["Environment"].startswith(f"LWM_EDGE_HOME=/var/lib/{service['StateDirectory']}/")
    assert unit(TIMER)["Timer"]["OnUnitInactiveSec"]


def test_the_service_is_hardened() -> None:
    service = unit(SERVICE)["Service"]
    promised = {"DynamicUser": "yes", "ProtectSystem": "strict", "ProcSubset": "pid", "PrivateNetwork": "yes"}
    assert promised.items() <= dict(service).items()
    assert "MemoryMax" not in service, "the installer sets it"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_service_has_the_systemd_score_that_the_page_states() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    score = printed.rpartition(": ")[2].split()[0]
    assert float(score) < 1 and f"exposure of {score}" in prose("deploy/README.md"), printed


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "lwm-edge"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lwm_edge "$@"\n')
    path.chmod(0o755)
    return path


def install(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DESTDIR": str(program.parent / "root"), "LWM_EDGE": str(program)}
    command = [str(UNITS / "install"), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_installer_makes_all_that_the_service_needs(program: Path) -> None:
    root = program.parent / "root"
    first = install(program, str(BASE_BUNDLE), "600M")
    assert first.returncode == 0, first.stderr
    home = root / "var/lib/private/lwm-edge/home"
    made = home.stat().st_ino, (home / "current").readlink()
    assert oct((root / "var/lib/private").stat().st_mode)[-3:] == "700"
    assert oct((root / "srv/lwm-edge/inbox").stat().st_mode)[-4:] == "2775"
    system = root / "etc/systemd/system"
    assert (system / SERVICE.name).read_bytes() == SERVICE.read_bytes() and (system / TIMER.name).is_file()
    again = install(program, str(BASE_BUNDLE), "1G")
    limit = unit(system / "lwm-edge-inbox.service.d" / "memory.conf")["Service"]["MemoryMax"]
    assert again.returncode == 0 and limit == "1G"
    assert (home.stat().st_ino, (home / "current").readlink()) == made, "the home was made a second time"


def test_the_installer_says_how_to_call_it(program: Path) -> None:
    wrong = install(program, str(BASE_BUNDLE))
    assert wrong.returncode == 2 and "BASE.lwm MEMORY" in wrong.stdout
    assert install(program, str(BASE_BUNDLE), "half").returncode == 2


def test_the_installer_refuses_a_python_that_the_service_cannot_see(program: Path) -> None:
    (program.parent / "python").symlink_to("/home/somebody/.pyenv/versions/3.11.7/bin/python")
    refused = install(program, str(BASE_BUNDLE), "600M")
    assert refused.returncode == 1 and "in a user's folder, which the service cannot see" in refused.stdout
    assert not (program.parent / "root").exists()
