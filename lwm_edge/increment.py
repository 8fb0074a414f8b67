"""One increment, from photos to commit: the main job, in this process.

`worker.add_classes` runs it in a process of its own.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from .bundle import Bundle, network_arrays
from .config import IncrementConfig
from .drift import measure_drift
from .errors import CapacityError, ConfigError
from .evaluation import evaluate_predictions
from .export import PARITY_BATCH_SIZES
from .generation import Candidate, commit, prepare
from .home import Home
from .manifest import Activation, Manifest
from .network import Network, attention_cells
from .photos import PhotoFolder, PhotoSet, PixelCache, read_photo_folder, split_held_back
from .report import EvaluationReport, IncrementReport, Progress, ProgressCallback
from .training import choose_device, run_network, train_increment

PIXEL_CACHE_BYTES = 64 * 1024 * 1024
_FEW_ATTENTION_CELLS = 16


def learn_classes(
    home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback
) -> IncrementReport:
    """Teaches the home's model the classes in a photo folder; see `worker.add_classes`."""
    started = time.monotonic()
    with home.lock():
        generation = home.current()
        parent = home.open_bundle()
        manifest = parent.manifest
        cache = PixelCache(PIXEL_CACHE_BYTES)
        on_progress(Progress(phase="photos", done=0, total=1))
        photo_folder = read_photo_folder(
            folder,
            manifest.preprocessing,
            cache,
            least_photos=config.least_photos,
            known_classes=manifest.class_names,
            first_label=len(manifest.class_names),
        )
        new_classes = photo_folder.class_names
        _check_capacity(manifest, new_classes)
        to_learn, held_back = _split(photo_folder, manifest, cache, config)

        device = choose_device(config.device)
        teacher = parent.network().to(device)
        student = parent.network(trainable=True).to(device)
        warnings = _check_attention(student, config.loss_weights.gamma)
        student.add_classes(len(new_classes), torch.Generator().manual_seed(config.seed))
        classification = config.classification or manifest.activation
        warnings += _check_classification(classification, manifest.activation)
        training = train_increment(student, teacher, to_learn, config, classification, on_progress)

        on_progress(Progress(phase="evaluate", done=0, total=1))
        class_names = (*manifest.class_names, *new_classes)
        changed = manifest.model_copy(
            update={
                "class_names": class_names,
                "recipe": config.recipe,
                "parent_digest": manifest.model_digest,
                "increment_count": manifest.increment_count + 1,
            }
        )
        batch_size = config.micro_batch_size
        accuracy = _evaluate(student, held_back, changed, batch_size)
        drift = measure_drift(student, teacher, held_back, batch_size)

        on_progress(Progress(phase="commit", done=0, total=1))
        candidate = _candidate(
            student.cpu(), changed, parent, held_back, started, generation.onnx.stat().st_size
        )
        receipt = IncrementReport(
            home=home.path,
            recipe=config.recipe,
            beta=config.loss_weights.beta,
            gamma=config.loss_weights.gamma,
            new_classes=new_classes,
            class_names=class_names,
            photos_trained=len(to_learn.photos),
            photos_held_back=len(held_back.photos),
            skipped=photo_folder.skipped,
            training=training,
            held_back=accuracy,
            drift=drift,
            parity=candidate.parity,
            footprint=candidate.footprint,
            onnx=home.onnx,
            model_digest=candidate.manifest.model_digest,
            parent_digest=manifest.model_digest,
            warnings=tuple(warnings),
            seconds=time.monotonic() - started,
        )
        commit(home, candidate, receipt)
        return receipt


def _check_capacity(manifest: Manifest, new_classes: tuple[str, ...]) -> None:
    free = manifest.capacity - len(manifest.class_names)
    if len(new_classes) > free:
        raise CapacityError(
            f"{len(new_classes)} new classes do not fit: the model knows {len(manifest.class_names)} of "
            f"at most {manifest.capacity}, so {free} more; remove classes first (lwm-edge remove-class) "
            "or ask the vendor for a base of larger capacity"
        )


def _split(
    folder: PhotoFolder, manifest: Manifest, cache: PixelCache, config: IncrementConfig
) -> tuple[PhotoSet, PhotoSet]:
    splits = [split_held_back(photos, config.held_back, config.seed) for photos in folder.photos]
    to_learn = [photo for learn, _ in splits for photo in learn]
    held_back = [photo for _, held in splits for photo in held]
    seed = config.seed if config.augment else None
    return (
        PhotoSet(to_learn, manifest.preprocessing, cache, augmentation_seed=seed),
        PhotoSet(held_back, manifest.preprocessing, cache),
    )


def _check_attention(network: Network, gamma: float) -> list[str]:
    cells = attention_cells(network)
    size = network.preprocessing.image_size
    if gamma and cells == 1:
        raise ConfigError(
            f"at {size} px this network's attention maps have a single cell, so the attention "
            "distillation loss says nothing; use recipe lwf-mc, or a base made at a larger image size"
        )
    if gamma and cells < _FEW_ATTENTION_CELLS:
        return [f"attention maps have {cells} cells at {size} px; below 4x4 they guide little"]
    return []


def _check_classification(classification: Activation, trained_as: Activation) -> list[str]:
    if classification == trained_as:
        return []
    return [f"the base was trained with {trained_as} outputs and the increment with {classification}"]


def _evaluate(network: Network, photos: PhotoSet, manifest: Manifest, batch_size: int) -> EvaluationReport:
    predictions = [logits.argmax(1).cpu().numpy() for _, logits in run_network(network, photos, batch_size)]
    return evaluate_predictions(
        np.concatenate(predictions), np.array(photos.labels), manifest.class_names, manifest.shipped_classes
    )


def _candidate(
    student: Network,
    changed: Manifest,
    parent: Bundle,
    held_back: PhotoSet,
    started: float,
    onnx_bytes_before: int,
) -> Candidate:
    arrays = {**parent.arrays(), **network_arrays(student)}
    images = held_back.load(range(min(len(held_back.photos), max(PARITY_BATCH_SIZES))))
    return prepare(
        arrays, changed, student, parent, images, started=started, onnx_bytes_before=onnx_bytes_before
    )
