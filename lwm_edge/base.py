"""Makes a vendor's base: trains or adopts a classifier and writes the bundle that ships."""

from __future__ import annotations

import math
import pickle
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .architectures import Architecture, find_architecture
from .bundle import network_arrays, save_bundle, tensors_digest
from .config import BaseConfig
from .errors import ArchitectureError, CapacityError, ConfigError, GateError
from .evaluation import evaluate_predictions
from .export import check_parity, fill_graph, trace_graph
from .home import AnyPath
from .losses import classification_loss
from .manifest import Manifest, Preprocessing
from .network import Network, attention_cells, check_surgery, take_apart
from .photos import PhotoSet, PixelCache, read_photo_folder, split_held_back
from .report import (
    BaseReport,
    EvaluationReport,
    Progress,
    ProgressCallback,
    TrainingReport,
    ignore_progress,
)
from .training import choose_device, epoch_batches, run_network

_LEAST_PHOTOS = 5
_PIXEL_CACHE_BYTES = 1024 * 1024 * 1024  # a vendor's workstation
_NO_DIGEST = "0" * 64


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
        ConfigError: No such weights or checkpoint.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
    """
    started = time.monotonic()
    photos, output = Path(photos), Path(output)
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

    network = _start_network(architecture, config, len(folder.class_names), preprocessing)
    network.to(choose_device(config.device))
    training = train_base(network, to_learn, config, on_progress) if config.epochs else None
    on_progress(Progress(phase="evaluate", done=0, total=1))
    accuracy = _evaluate(network, held_back, folder.class_names) if held_back.photos else None

    on_progress(Progress(phase="commit", done=0, total=1))
    network.cpu()
    arrays = {
        **network_arrays(network),
        "onnx_graph": np.frombuffer(trace_graph(network, config.activation), dtype=np.uint8),
    }
    manifest = Manifest(
        architecture=config.architecture,
        preprocessing=preprocessing,
        activation=config.activation,
        class_names=folder.class_names,
        shipped_classes=len(folder.class_names),
        capacity=config.capacity,
        bundle_bytes=0,
        recipe="base",
        tensors_digest=tensors_digest(arrays),
    )
    onnx_file = fill_graph(arrays["onnx_graph"].tobytes(), arrays, manifest)
    parity = check_parity(onnx_file, network, to_learn.load(range(5)), real_photos=True)
    bundle = save_bundle(output, arrays, manifest)
    return BaseReport(
        bundle=output,
        architecture=config.architecture,
        class_names=folder.class_names,
        capacity=config.capacity,
        bundle_bytes=bundle.manifest.bundle_bytes,
        training=training,
        held_back=accuracy,
        parity=parity,
        attention_cells=(cells := attention_cells(network)),
        warnings=(*folder.skipped, *_few_cells(cells, preprocessing)),
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


def _few_cells(cells: int, preprocessing: Preprocessing) -> tuple[str, ...]:
    if cells >= 16:
        return ()
    return (
        f"attention maps have {cells} cells at {preprocessing.image_size} px; the attention "
        "distillation loss wants 4x4 or more: take a larger image size or a network of smaller stride",
    )


def _start_network(
    architecture: Architecture, config: BaseConfig, classes: int, preprocessing: Preprocessing
) -> Network:
    """The network before training, from scratch, from named weights or from a checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = architecture.build()
    state = _read_state(architecture, config)
    whole_head = _load_state(model, architecture, config, state, classes)
    backbone, head = take_apart(model, architecture, config.architecture)
    check_surgery(model, backbone, head, config.architecture)
    full_head = torch.nn.Linear(head.in_features, config.capacity)
    for tensor in full_head.parameters():
        torch.nn.init.zeros_(tensor)
    network = Network(backbone, full_head, 0, preprocessing)
    network.add_classes(classes, torch.Generator().manual_seed(config.seed))
    if whole_head:
        with torch.no_grad():
            network.head.weight[:classes], network.head.bias[:classes] = head.weight, head.bias
    elif config.epochs == 0:
        raise ConfigError(
            f"{config.checkpoint} has no head of {classes} classes and must be trained; "
            "epochs 0 cannot be used"
        )
    return network.eval()


def _read_state(architecture: Architecture, config: BaseConfig) -> Mapping[str, Tensor]:
    if config.weights:
        if config.weights not in architecture.weights:
            offered = ", ".join(architecture.weights) or "none"
            raise ConfigError(
                f"{config.architecture} has no weights {config.weights!r}; it offers: {offered}"
            )
        try:
            return architecture.weights[config.weights]()
        except OSError as error:
            raise ConfigError(
                f"the {config.weights} weights of {config.architecture} cannot be fetched ({error}); "
                "download them elsewhere and give them with --checkpoint"
            ) from None
    if config.checkpoint:
        return read_checkpoint(config.checkpoint)
    return {}


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Reads a torch state dict without ever running pickled code (`weights_only=True`).

    Raises:
        ConfigError: No such file, or something else inside.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickle protocols, which are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as a state dict of tensors ({reason}); "
            "save one with torch.save(model.state_dict(), ...)"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{path} is no state dict of tensors; save one with torch.save(model.state_dict(), ...)"
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _load_state(
    model: torch.nn.Module,
    architecture: Architecture,
    config: BaseConfig,
    state: Mapping[str, Tensor],
    classes: int,
) -> bool:
    """Loads the backbone, and the head if it has one row a class; says whether it did."""
    if not state:
        return False
    weight, bias = f"{architecture.head}.weight", f"{architecture.head}.bias"
    whole_head = bool(config.checkpoint) and weight in state and len(state[weight]) == classes
    if whole_head:
        owner, _, attribute = architecture.head.rpartition(".")
        inputs = state[weight].shape[1]
        setattr(model.get_submodule(owner), attribute, torch.nn.Linear(inputs, classes))
    else:
        state = {name: tensor for name, tensor in state.items() if name not in (weight, bias)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ArchitectureError(f"the weights are not {config.architecture}'s: {error}") from None
    missing = [name for name in missing if name not in (weight, bias)]
    if missing or unexpected:
        problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unexpected]
        raise ArchitectureError(f"the weights are not {config.architecture}'s", problems)
    return whole_head


def train_base(
    network: Network, photos: PhotoSet, config: BaseConfig, on_progress: ProgressCallback
) -> TrainingReport:
    """Trains all of a network on all its classes: L_C alone, one-cycle SGD, BatchNorm in training mode."""
    device = network.head.weight.device
    steps_per_epoch = max(1, len(photos.photos) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=1.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    peak = config.learning_rate or (0.01 if config.weights or config.checkpoint else 0.05)
    labels = torch.tensor(photos.labels, device=device)
    network.train().requires_grad_(True)
    step, started, epoch_loss = 0, time.monotonic(), 0.0

    for epoch in range(config.epochs):
        epoch_loss = 0.0
        # The last, smaller batch is left out: BatchNorm needs company.
        batches = list(epoch_batches(len(photos.photos), config.batch_size, config.seed, epoch))
        for batch in batches[:steps_per_epoch]:
            for group in optimizer.param_groups:
                group["lr"] = peak * _one_cycle(step / total_steps)
            images = torch.from_numpy(photos.load(batch, epoch)).to(device)
            _, logits = network(images)
            loss = classification_loss(logits, labels[batch], 0, config.activation)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
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


def _one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Learning rate as a share of its peak: up in a line, down along a cosine."""
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def _evaluate(network: Network, photos: PhotoSet, class_names: tuple[str, ...]) -> EvaluationReport:
    predictions = [logits.argmax(1).cpu().numpy() for _, logits in run_network(network, photos, 64)]
    return evaluate_predictions(
        np.concatenate(predictions), np.array(photos.labels), class_names, len(class_names)
    )
