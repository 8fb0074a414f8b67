"""A command that is told to stop ends with one sentence and exit code 130 or 143."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import storage
from lwm_edge.cli import commands
from lwm_edge.cli.interruption import Interruption
from lwm_edge.home.home import Home
from tests.support.folders import BASE_BUNDLE, DEMO_DATA, PhotoMaker

PHOTO = DEMO_DATA / "test" / "1" / "Sneaker" / "009.png"

STOPS_WHILE_IT_LOADS = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    for _ in range(1_000_000): pass
except BaseException:
    pass  # as some libraries do
"""
LOADS_IT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT is ignored in background jobs
from lwm_edge.cli.interruption import handle_requests_to_stop
handle_requests_to_stop()
sys.path.insert(0, sys.argv[1])
import stops_while_it_loads
"""

PRINTS_A_LONG_REPORT = """
import sys
sys.argv = ["lwm-edge", "predict", sys.argv[2], *["missing.png"] * 5000, "--home", sys.argv[1], "--json"]
from lwm_edge.__main__ import main
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_stop_while_a_library_that_swallows_exceptions_loads(
    tmp_path: Path, name: str, code: int, as_json: bool
) -> None:
    (tmp_path / "stops_while_it_loads.py").write_text(STOPS_WHILE_IT_LOADS.format(name=name))
    arguments = [str(tmp_path), *(["--json"] if as_json else [])]
    end = subprocess.run([sys.executable, "-c", LOADS_IT, *arguments], capture_output=True, text=True)
    assert end.returncode == code
    if as_json:
        assert json.loads(end.stdout)["error"]["exit_code"] == code and not end.stderr
    else:
        assert (end.stdout, end.stderr) == ("", "Interrupted; nothing was changed.\n")


def test_a_stop_before_signals_are_handled_is_one_sentence() -> None:
    stops = "import time; time.monotonic = lambda: exec('raise KeyboardInterrupt')"
    starts = "from lwm_edge.__main__ import main; main()"
    end = subprocess.run([sys.executable, "-c", f"{stops}; {starts}"], capture_output=True, text=True)
    assert (end.returncode, end.stdout, end.stderr) == (130, "", "Interrupted; nothing was changed.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["remove-class", "rename-class", "init", "repair"])
def test_just_after_the_link_is_switched_the_sentence_says_that_the_change_was_made(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    number: signal.Signals,
) -> None:
    arguments = {
        "remove-class": ["Coat", "--shipped"],
        "rename-class": ["Coat", "Mantel"],
        "init": [str(BASE_BUNDLE), "--replace"],
        "repair": [],
    }
    home.current().labels.unlink()  # so that repair has something to do
    swap = storage.swap_link

    def interrupted(link: Path, target: str) -> Any:
        swap(link, target)
        raise Interruption(number)

    monkeypatch.setattr(storage, "swap_link", interrupted)
    monkeypatch.setattr(sys, "argv", ["lwm-edge", command, *arguments[command], "--home", str(home.path)])
    with pytest.raises(SystemExit) as end:
        commands.main()
    assert end.value.code == 128 + number
    told = capfd.readouterr().err
    assert "Interrupted, but the change had already been made: the home has the new model." in told
    assert "Traceback" not in told and home.current().path.name == "00000001"


def test_a_stop_while_a_json_report_is_printed_adds_no_second_document(home: Home) -> None:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PRINTS_A_LONG_REPORT, str(home.path), str(PHOTO)],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout
        begun = process.stdout.read(1)  # the rest does not fit into the pipe
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        with process.stdout as stdout:
            printed = begun + stdout.read()
        assert process.wait() == 143
        errors.seek(0)
        assert b"Interrupted" in errors.read()
    assert printed.count(b'{"onnx"') == 1 and b'"error": {' not in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "number", "whole_group"),
    [
        (1, signal.SIGINT, True),
        (1, signal.SIGTERM, False),
        (3, signal.SIGINT, False),
        (3, signal.SIGTERM, True),
        pytest.param(6, signal.SIGINT, True, marks=pytest.mark.extended),
        pytest.param(6, signal.SIGTERM, False, marks=pytest.mark.extended),
    ],
)
def test_a_real_increment_is_told_to_stop_at_several_moments(
    home: Home, make_photos: PhotoMaker, seconds: int, number: signal.Signals, whole_group: bool
) -> None:
    command = ["add-classes", str(make_photos("Bag")), "--home", str(home.path), "--recipe", "lwm"]
    command += ["--epochs", "10000"]
    with subprocess.Popen(
        [sys.executable, "-m", "lwm_edge", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        time.sleep(seconds)
        (os.killpg if whole_group else os.kill)(process.pid, number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told
    assert "Traceback" not in told
    assert any(words in told for words in ("nothing was changed", "the model is unchanged"))
