"""The README's commands, run as they stand; and the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lwm_edge import errors
from lwm_edge.home.home import Home

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found[1]


def _run(script: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LWM_EDGE_HOME": ""}
    result = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "lwm_edge", tmp_path / "lwm_edge", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.slow
def test_the_device_path(clone: Path) -> None:
    printed = _run(_block("device-path"), clone)
    assert "Learnt 2 classes" in printed and "passed: nothing else is there" in printed
    assert (clone / "classifier.onnx").is_file() and (
        clone / "my_home" / "current" / "classifier.onnx"
    ).is_file()


@pytest.mark.slow
def test_the_audit_path(clone: Path) -> None:
    printed = _run(_block("audit-path"), clone)
    assert "passed: nothing else is there" in printed
    assert "passed: storage and memory stay constant" in printed and (clone / "footprint.png").is_file()


@pytest.mark.slow
def test_the_vendor_path(clone: Path) -> None:
    assert "small_resnet20" in _run(_block("vendor-path"), clone)


@pytest.mark.slow
def test_the_custody_path(clone: Path) -> None:
    printed = _run(_block("custody-path"), clone)
    assert printed.count("Verdict       passed") == 2 and "signed changes 1, 2" in printed
    assert "This model is that base, unchanged." in printed


@pytest.mark.slow
def test_the_python_snippet(home: Home, tmp_path: Path, make_photos: object) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    make_photos("Bag")  # type: ignore[operator]
    snippet = snippet.replace('"my_home"', repr(str(home.path)))
    assert "classifier.onnx" in _run(f"python - <<'END'\n{snippet}\nEND", tmp_path)


def test_ci_runs_exactly_the_readmes_two_commands() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert "$(readme_command demo-command)" in gate and "$(readme_command test-command)" in gate
    assert _block("demo-command").splitlines()[-1] == ".venv/bin/lwm-edge demo"
    assert _block("test-command").splitlines()[-1] == ".venv/bin/pytest"


def test_the_settings_file_in_the_readme() -> None:
    from lwm_edge.cli import settings as cli_settings

    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    content = cli_settings.tomllib.loads(text.replace("\n  ", "\n"))  # type: ignore[attr-defined]
    settings = cli_settings.FileConfig.model_validate(content)
    assert cli_settings.increment_config(settings).epochs == 10


def test_the_exit_codes_are_the_errors() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.LwmEdgeError)]
    assert {kind.exit_code for kind in kinds} | {0, 130} == listed


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    printed = _run(f"python {ROOT / 'examples' / '01_add_classes.py'} {tmp_path / 'home'}", tmp_path)
    assert "Learnt: Ankle boot, Bag" in printed and "is a " in printed


def test_a_classifier_without_lwm_edge(home: Home, tmp_path: Path) -> None:
    photo = ROOT / "lwm_edge" / "demo_data" / "test" / "base" / "Trouser" / "000.png"
    assert "Trouser" in _run(f"python {ROOT / 'deploy' / 'classify.py'} {home.onnx} {photo}", tmp_path)
