"""The lists in deploy/locked pin all of requirements-instant.txt, to versions that constraints.txt allows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.pages import read

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def wanted(page: str, python: str) -> Iterator[Requirement]:
    """Yields the requirements in a list that apply to a version of Python."""
    for line in read(page).splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
                yield requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_list_for_each_python_is_complete_and_pinned(python: str) -> None:
    text = read(f"deploy/locked/python{python}.txt")
    assert "://" not in text, "a list must not name an index"
    versions = {}
    for entry in text.replace("\\\n", "").splitlines():
        name, *hashes = re.split(r"\s+--hash=sha256:", entry)
        requirement = Requirement(name)
        (pinned,) = requirement.specifier
        assert pinned.operator == "==" and hashes and all(len(h.strip()) == 64 for h in hashes), entry
        assert requirement.marker is None or requirement.marker.evaluate({"python_version": python}), entry
        versions[canonicalize_name(requirement.name)] = pinned.version
    for requirement in wanted("deploy/requirements-instant.txt", python):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier
    for requirement in wanted(".github/constraints.txt", python):
        found = versions.get(canonicalize_name(requirement.name))
        assert found is None or found in requirement.specifier, f"{requirement}, and not {found}"
