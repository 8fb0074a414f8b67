"""The usage reports of ONNX Runtime's official Linux builds are turned off before the library loads."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lwm_edge.demo import DEMO_DATA
from lwm_edge.home.home import Home
from tests.support.folders import PhotoMaker

ROOT = Path(__file__).resolve().parents[1]
SWITCH = "ORT_DISABLE_TELEMETRY"
PHOTO = DEMO_DATA / "test" / "base" / "Trouser" / "000.png"
RESOLVER = """
import socket, subprocess, sys, threading
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    while True:
        query, address = server.recvfrom(4096)
        print("query", query[12:].split(b"\\0")[0], flush=True)
        server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], address)
threading.Thread(target=serve, daemon=True).start()
for command in sys.argv[1:]:
    subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


def _environment(folder: Path) -> dict[str, str]:
    """Makes the environment of a user with the given home folder and no settings of lwm-edge."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", SWITCH, "LWM_"))
    }
    return {**ours, "HOME": str(folder)}


def _commands(home: Home, photos: Path) -> list[str]:
    lwm_edge = f"{sys.executable} -m lwm_edge"
    return [
        f"{lwm_edge} add-classes '{photos}' --home '{home.path}' --recipe lda",
        f"{lwm_edge} predict '{PHOTO}' --home '{home.path}'",
        f"{lwm_edge} audit --home '{home.path}'",
        f"{sys.executable} {ROOT / 'deploy' / 'classify.py'} {home.onnx} '{PHOTO}'",
        f"{sys.executable} {ROOT / 'examples' / '01_add_classes.py'} {home.path.parent / 'example'}",
    ]


@pytest.mark.slow
def test_an_increment_and_a_prediction_write_nothing_into_the_users_home_folder(
    home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    for command in _commands(home, make_photos("Bag")):
        subprocess.run(
            ["bash", "-c", command], check=True, capture_output=True, env=_environment(folder), cwd=tmp_path
        )
    assert not list(folder.rglob("*"))


@pytest.mark.slow
def test_an_increment_and_a_prediction_send_no_dns_query(
    home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    """Runs the commands in a separate network, whose only resolver prints every query."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "resolver.py").write_text(RESOLVER)
    alone = ["unshare", "--mount", "--net", "bash", "-c"]
    prepare = f"ip link set lo up && mount --bind {tmp_path / 'resolv.conf'} /etc/resolv.conf && "
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, prepare + "true"], capture_output=True).returncode
    ):
        pytest.skip("no network namespace can be made here")

    def queries(*commands: str) -> str:
        environment = _environment(tmp_path) | {f"C{number}": c for number, c in enumerate(commands)}
        arguments = " ".join(f'"$C{number}"' for number in range(len(commands)))
        done = subprocess.run(
            [*alone, f"{prepare} exec {sys.executable} {tmp_path / 'resolver.py'} {arguments}"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert "example" in queries(f"{sys.executable} -c 'import socket; socket.getfqdn(\"example.org\")'")
    assert queries(*_commands(home, make_photos("Bag"))) == ""


@pytest.mark.parametrize("value", [None, "", "0", "1"])
def test_the_switch_is_set_before_anything_loads_unless_the_user_set_it(value: str | None) -> None:
    environment = {**_environment(Path("/nonexistent")), **({} if value is None else {SWITCH: value})}
    code = f"import os, lwm_edge.model.classifier; print(os.environ['{SWITCH}'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == (value or "1")


def test_scripts_that_load_onnx_runtime_alone_set_the_switch_first() -> None:
    """A script may import lwm_edge first instead: its `__init__` turns the reports off."""
    for path in [*ROOT.glob("deploy/**/*.py"), *ROOT.glob("examples/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        lines = ast.unparse(ast.parse(path.read_text())).splitlines()
        loads = [n for n, line in enumerate(lines) if line.split()[:2] == ["import", "onnxruntime"]]
        before = [n for n, line in enumerate(lines) if SWITCH in line or "lwm_edge" in line]
        assert not loads or (before and min(before) < min(loads)), path
