"""Makes a vendor's base: trains or adopts a classifier and writes the bundle that ships."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import storage
from ..errors import CapacityError
from ..learning.class_statistics import ClassStatistics
from ..learning.running import choose_device, observe
from ..model.architectures.registry import Architecture, find_architecture
from ..model.bundle import (
    CONFUSIONS,
    ONNX_GRAPH,
    PROBE,
    RIGHT,
    TOTAL,
    Arrays,
    Bundle,
    empty_tensors,
    save_bundle,
    tensors_digest,
)
from ..model.evaluation import evaluate_predictions
from ..model.loading import network_arrays
from ..model.manifest import Manifest
from ..model.network import Network, attention_cells, few_cells_warnings
from ..model.onnx.parity import (
    PARITY_BATCH_SIZES,
    ParityReport,
    head_inputs_of_probe,
    parity_probe,
    verified_file,
)
from ..model.onnx.tracing import trace_graph
from ..photos.folders import read_photo_folder, split_held_back
from ..photos.photo_set import PhotoSet, PixelCache
from ..photos.preprocessing import Preprocessing
from ..records import AnyPath, Progress, ProgressCallback, ignore_progress
from .choose_levels import choose_levels, possible_levels
from .config import BaseConfig
from .reports import BaseReport
from .start import start_network
from .train import train_base

_MIN_PHOTOS = 5
_PIXEL_CACHE_BYTES = 1024 * 1024 * 1024  # a base is built on a vendor's workstation
_BATCH_SIZE = 64  # photos at once when nothing trains


def build_base(
    photos: AnyPath, output: AnyPath, config: BaseConfig, *, on_progress: ProgressCallback = ignore_progress
) -> BaseReport:
    """Trains a base from class folders and writes its bundle.

    Args:
        photos: Path of a folder with one sub-folder of photos for each class.
        output: Path of the bundle to write; an existing file is replaced.
        config: Settings of the base.
        on_progress: Function that is called at every step.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ArchitectureError: The architecture is unknown or does not fit, or the checkpoint fits another one.
        CapacityError: There are more classes than the capacity allows.
        ConfigError: The weights or the checkpoint do not exist, or the grid does not fit.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
    """
    started = time.monotonic()
    photos, output = Path(photos), Path(output)
    storage.check_output(output)
    architecture = find_architecture(config.architecture)
    preprocessing = _preprocessing(architecture, config.image_size)
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    on_progress(Progress(phase="photos", done=0, total=1))
    folder = read_photo_folder(photos, preprocessing, cache, min_photos=_MIN_PHOTOS)
    if len(folder.class_names) > config.capacity:
        raise CapacityError(f"{len(folder.class_names)} classes do not fit a capacity of {config.capacity}")
    splits = [_split(group, config) for group in folder.photos]
    learn_from = [photo for learn, _ in splits for photo in learn]
    to_learn = PhotoSet(learn_from, preprocessing, cache, config.seed if config.augment else None)
    held_back = PhotoSet([photo for _, held in splits for photo in held], preprocessing, cache)

    network = start_network(architecture, config, len(folder.class_names), preprocessing)
    candidates = possible_levels(network, config.grid)
    network.to(choose_device(config.device))
    with torch.random.fork_rng(devices=[]):  # stochastic depth draws from the global generator
        torch.manual_seed(config.seed)
        training = train_base(network, to_learn, config, on_progress) if config.epochs else None
    on_progress(Progress(phase="evaluate", done=0, total=1))
    accuracy, judged = None, empty_tensors(config.capacity, 1)
    if held_back.photos:
        predictions = observe(network, held_back, _BATCH_SIZE).logits(network).argmax(1)
        labels = np.array(held_back.labels)
        classes = len(folder.class_names)
        accuracy = evaluate_predictions(predictions, labels, folder.class_names, classes)
        _fill_in_measured_accuracy(judged, predictions, labels)

    levels = choose_levels(network, to_learn, candidates, _BATCH_SIZE, on_progress)
    on_progress(Progress(phase="commit", done=0, total=1))
    bundle, parity = _write(network.cpu(), to_learn, folder.class_names, config, output, judged)
    return BaseReport(
        bundle=output,
        architecture=config.architecture,
        class_names=folder.class_names,
        capacity=config.capacity,
        bundle_bytes=bundle.manifest.bundle_bytes,
        training=training,
        levels=levels,
        held_back=accuracy,
        parity=parity,
        attention_cells=(cells := attention_cells(network)),
        warnings=(*folder.skipped, *few_cells_warnings(cells, preprocessing.image_size)),
        model_digest=bundle.manifest.model_digest,
        seconds=time.monotonic() - started,
    )


def _write(
    network: Network,
    photos: PhotoSet,
    class_names: tuple[str, ...],
    config: BaseConfig,
    output: Path,
    judged: Arrays,
) -> tuple[Bundle, ParityReport]:
    """Writes the bundle of a trained network, with the statistics of its photos and a checked ONNX graph."""
    statistics = ClassStatistics.empty(config.capacity, network.head.in_features)
    statistics.learn(observe(network, photos, _BATCH_SIZE).head_inputs, np.array(photos.labels))
    arrays = {
        **network_arrays(network),
        **statistics.to_arrays(),
        **judged,
        PROBE: head_inputs_of_probe(network),
        ONNX_GRAPH: np.frombuffer(trace_graph(network, config.activation), dtype=np.uint8),
    }
    manifest = Manifest(
        architecture=config.architecture,
        preprocessing=network.preprocessing,
        activation=config.activation,
        levels=network.levels,
        class_names=class_names,
        shipped_classes=len(class_names),
        author=config.author,
        license=config.license,
        description=config.description,
        permits=config.permits,
        capacity=config.capacity,
        bundle_bytes=0,
        recipe="base",
        tensors_digest=tensors_digest(arrays),
    )
    examples = photos.load(range(min(max(PARITY_BATCH_SIZES), len(photos.photos))))
    _, parity = verified_file(arrays, manifest, parity_probe(network, examples))
    return save_bundle(output, arrays, manifest, storage.write_output), parity


def _preprocessing(architecture: Architecture, image_size: int | None) -> Preprocessing:
    default = architecture.preprocessing
    if image_size is None:
        return default
    resize_size = round(image_size * default.resize_size / default.image_size)
    return default.model_copy(update={"image_size": image_size, "resize_size": resize_size})


def _split(photos: tuple, config: BaseConfig) -> tuple[tuple, tuple]:  # type: ignore[type-arg]
    """Holds photos back before training; a checkpoint that is taken as it is may have seen them all."""
    holds_back = config.held_back and config.epochs
    return split_held_back(photos, config.held_back, config.seed) if holds_back else (photos, ())


def _fill_in_measured_accuracy(
    judged: dict[str, NDArray[Any]], predictions: NDArray[np.int64], labels: NDArray[np.int64]
) -> None:
    """Fills in how often each class was recognised, and which classes were confused most often."""
    np.add.at(judged[TOTAL], labels, 1)
    np.add.at(judged[RIGHT], labels[predictions == labels], 1)
    wrong = np.stack([labels, predictions], 1)[predictions != labels]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    rows = np.argsort(-counts, kind="stable")[: len(judged[CONFUSIONS])]
    judged[CONFUSIONS][: len(rows)] = np.concatenate([pairs[rows], counts[rows, None]], 1)
