"""Makes folders and bundles for tests; nothing here loads torch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lwm_edge
from lwm_edge.model.bundle import open_bundle, save_bundle

DEMO_DATA = Path(lwm_edge.__file__).parent / "demo_data"
BASE_BUNDLE = DEMO_DATA / "base.lwm"
PhotoMaker = Callable[..., Path]


@dataclass(frozen=True)
class Keys:
    """Names the key files of a vendor and a device, and a base that the vendor signed."""

    vendor_key: Path
    vendor_pub: Path
    device_key: Path
    device_pub: Path
    base: Path


def photo_folder(folder: Path, classes: dict[str, str], count: int = 8) -> Path:
    """Makes a photo folder; `classes` maps each class's new name to its name in the demo."""
    for target, source in classes.items():
        (found,) = (DEMO_DATA / "train").glob(f"*/{source}")
        (folder / target).mkdir(parents=True)
        for photo in sorted(found.iterdir())[:count]:
            shutil.copy(photo, folder / target)
    return folder


def save_permitting(base: Path, path: Path) -> Path:
    """Copies a base as if its vendor permitted both undo and more photos of shipped classes."""
    bundle = open_bundle(base)
    manifest = bundle.manifest.model_copy(update={"permits": ("add-photos", "undo")})
    save_bundle(path, bundle.arrays(), manifest)
    return path


def state_of(folder: Path) -> dict[str, str]:
    """Reads every file and link below a folder, to show that nothing changed."""
    state = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            state[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            state[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            state[str(path)] = "folder"
    return state
