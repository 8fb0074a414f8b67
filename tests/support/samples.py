"""Provides small real images from Fashion-MNIST, which ship for the demo, and settings that suit them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lwm_edge import IncrementConfig
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.increment.reports import PlanReport
from lwm_edge.learning.config import Device
from lwm_edge.model.bundle import open_bundle
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache

WITHOUT_LEVELS = Path(__file__).parents[1] / "golden" / "bundle-v2.lwm"  # reads only the last maps
DEVICE = cast(Device, os.environ.get("LWM_EDGE_TEST_DEVICE", "cpu"))
"""Device on which most tests train; with LWM_EDGE_TEST_DEVICE=cuda they run as on a device with a GPU."""
PLAN = PlanReport(
    micro_batch_size=16,
    micro_batches_per_update=1,
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
QUICK = IncrementConfig(recipe="lwm", epochs=1, batch_size=16, micro_batch_size=16, device=DEVICE)


def photo_set(group: str, *, count: int = 6, first_label: int = 0, seed: int | None = None) -> PhotoSet:
    """Reads up to `count` photos of each class in one of the demo's groups; a seed allows augmentation."""
    preprocessing = open_bundle(BASE_BUNDLE).manifest.preprocessing
    cache = PixelCache(10**8)
    folder = read_photo_folder(
        DEMO_DATA / "train" / group, preprocessing, cache, min_photos=1, first_label=first_label
    )
    return PhotoSet([p for photos in folder.photos for p in photos[:count]], preprocessing, cache, seed)


def batch_of(photos: PhotoSet) -> tuple[Tensor, Tensor]:
    """Returns all photos as one batch: images and labels."""
    return torch.from_numpy(photos.load(range(len(photos.photos)))), torch.tensor(photos.labels)
