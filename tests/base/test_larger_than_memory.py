"""A base is made from photos whose pixels take more memory than the process may have."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lwm_edge.base.reports import BaseReport
from lwm_edge.model.bundle import open_bundle
from tests.support.folders import DEMO_DATA
from tests.support.pages import ROOT

pytestmark = pytest.mark.extended

SIDE = 512  # pixels of each photo, and of what the network sees of it
PARTS = ((0, 0), (4, 0), (0, 4), (4, 4))  # corners of the parts that are cut out of each of the demo's photos
MOST_BYTES = 5 * 2**29  # of memory that is not a file's: 2.5 GiB

# A network that takes little time and memory, so that the photos decide how much both take.
VENDORS_MODULE = f"""
from torch import nn

from lwm_edge import Architecture, Preprocessing


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        large = nn.Conv2d(3, 8, kernel_size=2, stride=2), nn.BatchNorm2d(8)
        small = nn.Conv2d(8, 32, kernel_size=16, stride=16), nn.BatchNorm2d(32), nn.ReLU()
        self.maps = nn.Sequential(*large, *small)
        self.fc = nn.Linear(32, 10)

    def forward(self, images):
        return self.fc(self.maps(images).mean((2, 3)))


HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
AS_THEY_ARE = Preprocessing(image_size={SIDE}, resize_size={SIDE}, mean=HALF, std=QUARTER)
ARCHITECTURE = Architecture(build=Patches, features=("maps",), head="fc", preprocessing=AS_THEY_ARE)
"""
BUILD = "build-base PHOTOS --arch patches --grid 0 --epochs 1 --batch-size 16 --device cpu --json -o base.lwm"
# Runs the command line with a cache that keeps every photo.
KEEPS_ALL = """
from lwm_edge.base import build
build.PIXEL_CACHE_BYTES = 2**60
from lwm_edge.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with large photos, and a vendor's package as it would be installed."""
    folder = tmp_path_factory.mktemp("vendor")
    (folder / "patches.py").write_text(VENDORS_MODULE)
    installed = folder / "patches-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: patches\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[lwm_edge.architectures]\npatches = patches:ARCHITECTURE\n")
    for path in sorted((DEMO_DATA / "train").glob("*/*/*.png")):
        of_class = folder / "PHOTOS" / path.parent.name
        of_class.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as photo:
            for part, (left, top) in enumerate(PARTS):
                box = (left, top, left + 24, top + 24)
                large = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
                large.save(of_class / f"{path.stem}-{part}.jpg")
    return folder


def build(folder: Path, *start: str) -> subprocess.CompletedProcess[str]:
    """Makes a base in a process that may take only so much memory of its own."""
    return subprocess.run(
        [sys.executable, *start, *BUILD.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_base_is_made_from_more_photos_than_fit_into_memory(workplace: Path) -> None:
    photos = list(workplace.glob("PHOTOS/*/*.jpg"))
    assert len(photos) * SIDE**2 * 3 > 1.1 * MOST_BYTES
    made = build(workplace, "-m", "lwm_edge")
    assert made.returncode == 0, made.stdout
    report = BaseReport.model_validate_json(made.stdout)
    names = sorted(folder.name for folder in (workplace / "PHOTOS").iterdir())
    assert list(open_bundle(workplace / "base.lwm").manifest.class_names) == list(report.class_names) == names
    assert report.unseen and report.unseen.photos == len(photos) / 10
    assert report.unseen.accuracy > 2 / len(names)


def test_the_limit_is_too_low_to_keep_all_photos(workplace: Path) -> None:
    (workplace / "base.lwm").unlink(missing_ok=True)
    failed = build(workplace, "-c", KEEPS_ALL)
    assert failed.returncode == 5 and "out of memory" in failed.stdout, failed.stdout
    assert not (workplace / "base.lwm").exists()
