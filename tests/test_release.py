"""The builds of .ci/release share nothing, and tests can run outside a checkout, as they do there."""

from __future__ import annotations

import json
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
LIKELY_TO_NEED_A_CHECKOUT = ("tests/test_pages.py", "tests/test_readme.py", "tests/test_protocol.py")


def test_each_build_has_its_own_tools_dependencies_and_sbom() -> None:
    steps = {name: RELEASE.partition(f"\n{name}() {{ # ")[2].partition("\n}\n")[0] for name in BUILDS}
    assert all(steps.values()) and not [name for name, step in steps.items() if "$WORK" in step]
    assert {'  make_tools "$1"', '  make_sbom "$1"'} <= set(steps["build"].splitlines())
    assert RELEASE.count('\nbuild "') == RELEASE.count('; build "') == 1


def test_what_was_tested_is_listed_whatever_the_form_of_pips_report(tmp_path: Path) -> None:
    function = "list_tested() {" + RELEASE.partition("\nlist_tested() {")[2].partition("\n}\n")[0] + "\n}"
    files: list[tuple[str, str, dict[str, object]]] = [
        ("torch", "2.13.0+cpu", {"hash": "sha256=ab", "hashes": {"sha256": "ab"}}),
        ("lwm-edge", "0.1.0", {"hash": "sha256=cd"}),  # as pip 23.0 reports a file of this machine
    ]
    installed = [
        {"metadata": {"name": name, "version": version}, "download_info": {"archive_info": file}}
        for name, version, file in files
    ]
    (tmp_path / "report.json").write_text(json.dumps({"install": installed}), encoding="utf-8")
    command = f'{function}\nPYTHON="{sys.executable}" list_tested "{tmp_path / "report.json"}"'
    listed = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True).stdout
    expected = ["lwm-edge==0.1.0 \\", "    --hash=sha256:cd", "torch==2.13.0+cpu \\", "    --hash=sha256:ab"]
    assert listed.splitlines() == expected


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
