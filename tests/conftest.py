"""Makes homes, keys and photo folders for all tests; nothing here loads torch before a test needs it."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import lwm_edge
from lwm_edge import generate_key, sign_bundle
from lwm_edge.home.home import Home, open_home
from tests.support.folders import BASE_BUNDLE, Keys, PhotoMaker, photo_folder, save_permitting

_LONGEST = "test_pages.py"  # runs first, so that it is not the last to run while other workers are idle


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--extended", action="store_true", help="also run tests that only .ci/extended runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--extended"):
        left_out = [item for item in items if item.get_closest_marker("extended")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: item.path.name != _LONGEST)


def pytest_collection_finish() -> None:
    """Freezes all objects that exist already, so that garbage collection skips them during increments."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def every_core() -> Iterator[None]:
    """Gives torch several threads, as on a device, so that sums are split among them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shipped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "home"
    lwm_edge.init_home(BASE_BUNDLE, path)
    return path


@pytest.fixture
def home(shipped_home: Path, tmp_path: Path) -> Home:
    """Makes a fresh model home that knows the demo's six base classes."""
    path = tmp_path / "home"
    shutil.copytree(shipped_home, path, symlinks=True)
    return open_home(path)


@pytest.fixture(scope="session")
def permitting_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the demo's base with the vendor's permission for undo and for more photos of shipped classes."""
    return save_permitting(BASE_BUNDLE, tmp_path_factory.mktemp("permitting") / "base.lwm")


@pytest.fixture(scope="session")
def shipped_permitting_home(permitting_base: Path) -> Path:
    path = permitting_base.with_name("home")
    lwm_edge.init_home(permitting_base, path)
    return path


@pytest.fixture
def permitting_home(shipped_permitting_home: Path, tmp_path: Path) -> Home:
    """Makes a fresh model home of `permitting_base`."""
    path = tmp_path / "permitting_home"
    shutil.copytree(shipped_permitting_home, path, symlinks=True)
    return open_home(path)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    vendor, device = (generate_key(folder / name) for name in ("vendor", "device"))
    base = Path(shutil.copy(BASE_BUNDLE, folder / "base.lwm"))
    sign_bundle(base, vendor.private_key_file)
    return Keys(
        vendor.private_key_file, vendor.public_key_file, device.private_key_file, device.public_key_file, base
    )


@pytest.fixture(scope="session")
def shipped_trusting_home(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trusting") / "home"
    lwm_edge.init_home(keys.base, path, trust=keys.vendor_pub)
    return path


@pytest.fixture
def trusting_home(shipped_trusting_home: Path, tmp_path: Path) -> Home:
    """Makes a fresh model home that trusts the vendor of `keys`."""
    path = tmp_path / "trusting_home"
    shutil.copytree(shipped_trusting_home, path, symlinks=True)
    return open_home(path)


@pytest.fixture
def make_photos(tmp_path: Path) -> PhotoMaker:
    """Makes a photo folder: `make_photos("Bag", count=8)`, or `make_photos(renamed={"bag": "Bag"})`."""

    def make(
        *names: str, count: int = 8, folder: str = "new_photos", renamed: dict[str, str] | None = None
    ) -> Path:
        return photo_folder(tmp_path / folder, {**{name: name for name in names}, **(renamed or {})}, count)

    return make
