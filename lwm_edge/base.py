"""Makes a vendor's base: trains or adopts a classifier and writes the bundle that ships."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from .architectures import Architecture, find_architecture
from .batches import epoch_batches
from .bundle import network_arrays, save_bundle, tensors_digest
from .checkpoint import start_network
from .class_statistics import ClassStatistics
from .config import BaseConfig
from .errors import CapacityError, ConfigError, GateError
from .evaluation import evaluate_predictions
from .export import PARITY_BATCH_SIZES, check_parity, fill_graph, parity_probe, trace_graph
from .home import AnyPath
from .level_choice import choose_levels, possible_levels
from .losses import classification_loss
from .manifest import Manifest, Preprocessing
from .model_reports import BaseReport
from .network import Network, attention_cells, few_cells_warnings
from .photo_folders import read_photo_folder, split_held_back
from .photos import PhotoSet, PixelCache
from .reports import Progress, ProgressCallback, TrainingReport, ignore_progress
from .rotations import RotationTask
from .training import choose_device, pooled_features, predict_labels

_LEAST_PHOTOS = 5
_PIXEL_CACHE_BYTES = 1024 * 1024 * 1024  # a vendor's workstation
_MAX_GRADIENT_NORM = 5.0
_BATCH_SIZE = 64  # of evaluation


def build_base(
    photos: AnyPath, output: AnyPath, config: BaseConfig, *, on_progress: ProgressCallback = ignore_progress
) -> BaseReport:
    """Trains a base from class folders and writes its bundle.

    Args:
        photos: Folder with one sub-folder of photos for each class.
        output: The bundle file; replaced if it exists.
        config: Settings.
        on_progress: Called at every step.

    Raises:
        PhotosError: The folder cannot be learnt from; lists every problem.
        ArchitectureError: The architecture is unknown, does not fit, or the checkpoint is another's.
        CapacityError: More classes than capacity.
        ConfigError: No such weights or checkpoint, or a grid that does not fit the network.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
    """
    started = time.monotonic()
    photos, output = Path(photos), Path(output)
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise ConfigError(f"{output} cannot be written; give a file in a folder that exists")
    architecture = find_architecture(config.architecture)
    preprocessing = _preprocessing(architecture, config.image_size)
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    on_progress(Progress(phase="photos", done=0, total=1))
    folder = read_photo_folder(photos, preprocessing, cache, least_photos=_LEAST_PHOTOS)
    if len(folder.class_names) > config.capacity:
        raise CapacityError(f"{len(folder.class_names)} classes do not fit capacity {config.capacity}")
    splits = [_split(group, config) for group in folder.photos]
    learn_from = [photo for learn, _ in splits for photo in learn]
    to_learn = PhotoSet(learn_from, preprocessing, cache, config.seed if config.augment else None)
    held_back = PhotoSet([photo for _, held in splits for photo in held], preprocessing, cache)

    network = start_network(architecture, config, len(folder.class_names), preprocessing)
    candidates = possible_levels(network, config.grid)
    network.to(choose_device(config.device))
    training = train_base(network, to_learn, config, on_progress) if config.epochs else None
    on_progress(Progress(phase="evaluate", done=0, total=1))
    accuracy = None
    if held_back.photos:
        predictions = predict_labels(network, held_back, _BATCH_SIZE)
        classes = len(folder.class_names)
        accuracy = evaluate_predictions(predictions, np.array(held_back.labels), folder.class_names, classes)

    levels = choose_levels(network, to_learn, candidates, _BATCH_SIZE, on_progress)
    on_progress(Progress(phase="commit", done=0, total=1))
    network.cpu()
    arrays = {
        **network_arrays(network),
        **_statistics(network, to_learn, config.capacity).to_arrays(),
        "onnx_graph": np.frombuffer(trace_graph(network, config.activation), dtype=np.uint8),
    }
    manifest = Manifest(
        architecture=config.architecture,
        preprocessing=preprocessing,
        activation=config.activation,
        levels=network.levels,
        class_names=folder.class_names,
        shipped_classes=len(folder.class_names),
        capacity=config.capacity,
        bundle_bytes=0,
        recipe="base",
        tensors_digest=tensors_digest(arrays),
    )
    onnx_file = fill_graph(arrays["onnx_graph"].tobytes(), arrays, manifest)
    examples = to_learn.load(range(min(max(PARITY_BATCH_SIZES), len(to_learn.photos))))
    parity = check_parity(onnx_file, parity_probe(network, examples))
    bundle = save_bundle(output, arrays, manifest)
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


def _preprocessing(architecture: Architecture, image_size: int | None) -> Preprocessing:
    default = architecture.preprocessing
    if image_size is None:
        return default
    resize_size = round(image_size * default.resize_size / default.image_size)
    return default.model_copy(update={"image_size": image_size, "resize_size": resize_size})


def _split(photos: tuple, config: BaseConfig) -> tuple[tuple, tuple]:  # type: ignore[type-arg]
    return split_held_back(photos, config.held_back, config.seed) if config.held_back else (photos, ())


def _statistics(network: Network, photos: PhotoSet, capacity: int) -> ClassStatistics:
    statistics = ClassStatistics.empty(capacity, network.head.in_features)
    statistics.learn(pooled_features(network, photos, _BATCH_SIZE), np.array(photos.labels))
    return statistics


def train_base(
    network: Network, photos: PhotoSet, config: BaseConfig, on_progress: ProgressCallback
) -> TrainingReport:
    """Trains all of a network on all its classes: L_C, with `rotations` a second task too, one-cycle SGD."""
    device = network.head.weight.device
    steps_per_epoch = max(1, len(photos.photos) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    peak = config.learning_rate or (0.01 if config.weights or config.checkpoint else 0.05)
    labels = torch.tensor(photos.labels, device=device)
    _set_trainable(network, config)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    d = network.attention_weight.shape[1]
    rotation_task = RotationTask(d, network.classes, config.seed).to(device) if config.rotations else None
    if rotation_task:
        parameters += rotation_task.parameters()
    optimizer = torch.optim.SGD(
        parameters,
        lr=1.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    step, started, epoch_loss = 0, time.monotonic(), 0.0

    for epoch in range(config.epochs):
        epoch_loss = 0.0
        # The last, smaller batch is left out: BatchNorm needs company.
        batches = list(epoch_batches(len(photos.photos), config.batch_size, config.seed, epoch))
        for batch in batches[:steps_per_epoch]:
            for group in optimizer.param_groups:
                group["lr"] = peak * _one_cycle(step / total_steps)
            images, of_batch = torch.from_numpy(photos.load(batch, epoch)).to(device), labels[batch]
            if rotation_task:
                images, rotated = rotation_task.with_rotated(images, of_batch)
            features, logits = network(images)
            loss = classification_loss(logits[: len(batch)], of_batch, 0, config.activation)
            if rotation_task:
                loss = loss + rotation_task.loss(features, rotated)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            optimizer.step()
            step += 1
            epoch_loss += loss.item() / steps_per_epoch
            if not math.isfinite(epoch_loss):
                raise GateError(f"the loss diverged at step {step}; try a learning rate below {peak}")
            on_progress(Progress(phase="train", done=step, total=total_steps, loss=loss.item()))

    network.eval().requires_grad_(False)
    seconds = time.monotonic() - started
    return TrainingReport(
        epochs=config.epochs,
        steps=step,
        classification_loss=epoch_loss,
        distillation_loss=None,
        attention_distillation_loss=None,
        step_ms=1000 * seconds / step,
        seconds=seconds,
    )


def _set_trainable(network: Network, config: BaseConfig) -> None:
    """From scratch all trains. Weights that were learnt elsewhere keep their BatchNorm statistics."""
    blocks = network.blocks()
    if config.frozen_blocks > len(blocks):
        raise ConfigError(
            f"{config.architecture} has {len(blocks)} blocks; {config.frozen_blocks} cannot be frozen"
        )
    network.train(mode=not (config.weights or config.checkpoint)).requires_grad_(True)
    for block in blocks[: config.frozen_blocks]:
        block.eval().requires_grad_(False)


def _one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Learning rate as a share of its peak: up in a line, down along a cosine."""
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2
