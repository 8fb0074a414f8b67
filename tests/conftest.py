"""Real small images (Fashion-MNIST, shipped for the demo) and the demo's base, for every test."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_edge import IncrementConfig, generate_key, measurement, sign_bundle
from lwm_edge.bundle import open_bundle
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.home import Home, open_home
from lwm_edge.maintenance import init_home
from lwm_edge.network import Network
from lwm_edge.photo_folders import read_photo_folder
from lwm_edge.photos import PhotoSet, PixelCache
from lwm_edge.reports import PlanReport

WITHOUT_LEVELS = Path(__file__).parent / "golden" / "bundle-v1.lwm"  # whose head reads the last maps alone
PLAN = PlanReport(
    micro_batch_size=16,
    micro_batches_an_update=1,
    prefetch=1,
    recompute=False,
    checkpoints=True,
    pixel_cache_bytes=0,
    limit_bytes=2**30,
    limit_source="as set",
    predicted_peak_rss_bytes=2**29,
    smallest_limit_bytes=2**28,
    predicted_seconds=1.0,
    disk_bytes=2**20,
)
QUICK = IncrementConfig(recipe="lwm", epochs=1, batch_size=16, micro_batch_size=16, device="cpu")
PhotoMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


_COUNTING = {"test_auditor", "test_measurement", "test_simulation"}


@pytest.fixture(autouse=True)
def _count_only_where_counts_matter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through all objects takes seconds in a process that ran hundreds of tests."""
    if request.module.__name__.rpartition(".")[2] not in _COUNTING:
        monkeypatch.setattr(measurement, "count_alive", lambda: measurement.Alive([], {}))


@pytest.fixture(scope="session")
def shipped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "home"
    init_home(BASE_BUNDLE, path)
    return path


@pytest.fixture
def home(shipped_home: Path, tmp_path: Path) -> Home:
    """A fresh model home that knows the demo's six base classes."""
    path = tmp_path / "home"
    shutil.copytree(shipped_home, path, symlinks=True)
    return open_home(path)


@dataclass(frozen=True)
class Keys:
    """Key files of a vendor and a device, and a base that the vendor signed."""

    vendor_key: Path
    vendor_pub: Path
    device_key: Path
    device_pub: Path
    base: Path


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
    init_home(keys.base, path, trust=keys.vendor_pub)
    return path


@pytest.fixture
def trusting_home(shipped_trusting_home: Path, tmp_path: Path) -> Home:
    """A fresh model home that trusts the vendor of `keys`."""
    path = tmp_path / "trusting_home"
    shutil.copytree(shipped_trusting_home, path, symlinks=True)
    return open_home(path)


@pytest.fixture
def make_photos(tmp_path: Path) -> PhotoMaker:
    """Makes a photo folder: `make_photos("Bag", "Shirt", count=8)`, or `make_photos({"bag": "Bag"})`."""

    def make(
        *names: str, count: int = 8, folder: str = "new_photos", renamed: dict[str, str] | None = None
    ) -> Path:
        for target, source in {**{name: name for name in names}, **(renamed or {})}.items():
            (found,) = (DEMO_DATA / "train").glob(f"*/{source}")
            (tmp_path / folder / target).mkdir(parents=True)
            for photo in sorted(found.iterdir())[:count]:
                shutil.copy(photo, tmp_path / folder / target)
        return tmp_path / folder

    return make


def photo_set(group: str, *, count: int = 6, first_label: int = 0, seed: int | None = None) -> PhotoSet:
    """Photos of each class of a demo group; augmented if there is a seed."""
    preprocessing = open_bundle(BASE_BUNDLE).manifest.preprocessing
    cache = PixelCache(10**8)
    folder = read_photo_folder(
        DEMO_DATA / "train" / group, preprocessing, cache, least_photos=1, first_label=first_label
    )
    return PhotoSet([p for photos in folder.photos for p in photos[:count]], preprocessing, cache, seed)


def teacher_and_student(new_classes: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Network, Network]:
    """The demo's base, and its copy with rows for new classes."""
    bundle = open_bundle(BASE_BUNDLE)
    teacher = bundle.network()
    student = teacher.student(trains=True).requires_grad_(True)
    student.add_classes(new_classes, torch.Generator().manual_seed(0))
    return teacher.to(dtype), student.to(dtype)


def batch_of(photos: PhotoSet) -> tuple[Tensor, Tensor]:
    """All photos as one batch: images and labels."""
    return torch.from_numpy(photos.load(range(len(photos.photos)))), torch.tensor(photos.labels)


def disturb(network: Network, scale: float = 0.1) -> None:
    """Moves the weights a little, so that a student differs from its teacher."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter += scale * parameter.abs().mean() * noise


def state_of(folder: Path) -> dict[str, str]:
    """Every file and link below a folder by its content; to show that nothing changed."""
    state = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            state[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            state[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            state[str(path)] = "folder"
    return state


def same_tensors(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)
