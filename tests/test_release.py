"""The builds of .ci/release share nothing, and tests can run outside a checkout, as they do there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

RELEASE = (ROOT / ".ci" / "release").read_text(encoding="utf-8")
BUILDS = ("make_tools", "install_in_fleet", "make_sbom", "with_torch", "build", "without_traces")
# Tests in these files follow links between pages, or ask git for the commit.
LIKELY_TO_NEED_A_CHECKOUT = ("tests/test_pages.py", "tests/test_protocol.py")


def test_each_build_has_its_own_tools_dependencies_and_sbom() -> None:
    steps = {name: RELEASE.partition(f"\n{name}() {{ # ")[2].partition("\n}\n")[0] for name in BUILDS}
    assert all(steps.values()) and not [name for name, step in steps.items() if "$WORK" in step]
    assert {'  make_tools "$1"', '  make_sbom "$1"'} <= set(steps["build"].splitlines())
    assert RELEASE.count('\nbuild "') == RELEASE.count('; build "') == 1


@pytest.mark.slow
def test_tests_need_neither_a_checkout_nor_the_package_beside_them(tmp_path: Path) -> None:
    unpacked, installed = tmp_path / "tests", tmp_path / "site-packages" / "lwm_edge"
    not_copied = shutil.ignore_patterns("lwm_edge", ".git", ".venv", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, unpacked, ignore=not_copied)
    shutil.copytree(ROOT / "lwm_edge", installed, ignore=not_copied)
    (unpacked / "lwm_edge").symlink_to(installed)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "link or commits or settings"]
    result = subprocess.run(
        [*command, *LIKELY_TO_NEED_A_CHECKOUT],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
