#!/usr/bin/env python3
"""Times steps of the training, the reading of photos, and a late increment beside the first; ratios first.

    python benchmarks/speed_training.py RESULTS.json [--part steps] [--rounds 15] [--arch resnet18 ...]

In a round each variant runs once, in turn, so that all see the same machine; ratios are of one round, and the
tables have their median, smallest and largest. The networks are untrained, and speed does not depend on what
they learnt.

    steps     one update of finetune, lwf-mc and lwm, from pixels to new weights, as the training makes it,
              in float32 and, where the processor has it, bfloat16, with all blocks trained and with the first
              ones frozen. lwm-autograd is the same loss with Grad-CAM by its definition: a backward pass to
              the maps of each network, and a second one through the student's. All is relative to finetune
              in float32.
    reader    photos a second, from JPEG files to batches of augmented pixels, beside torchvision's
              ImageFolder and DataLoader with the same transforms
    stream    twenty increments of one class; then the first and the last are made again and again, in turn,
              each on a copy of the home as it was before it
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image
from provenance import provenance
from safetensors.torch import load_file, save_file
from speed import make_network, ratio, spread

import lwm_edge
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.learning.attention import grad_cam
from lwm_edge.learning.batches import Batch, loaded_batches
from lwm_edge.learning.config import RECIPES, IncrementConfig, Recipe, RecipeName
from lwm_edge.learning.losses import attention_distillation_loss, classification_loss, distillation_loss
from lwm_edge.learning.optimizer import MomentumSGD
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import learning_rates, trained_parameters
from lwm_edge.memory import bound_allocator, drop_mapped_pages, freed_memory_kept, mapped_from
from lwm_edge.model.levels import Activations
from lwm_edge.model.network import Network
from lwm_edge.model.precision import has_bfloat16
from lwm_edge.model.terms import Precision
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.preprocessing import Preprocessing

PARTS = ("steps", "reader", "stream")
FROZEN = {"resnet18": 6, "efficientnet_lite0": 14}  # ResNet-18's through layer2
BATCH = {"resnet18": 8, "efficientnet_lite0": 32}
RECIPE_NAMES: tuple[RecipeName, ...] = ("finetune", "lwf-mc", "lwm")
AUTOGRAD: Literal["lwm-autograd"] = "lwm-autograd"
BASE_CLASSES, NEW_CLASSES = 40, 5
INCREMENTS = 20


def make_pair(arch: str, frozen: int, folder: Path) -> tuple[Network, Network]:
    """Makes a teacher whose tensors are pages of a file, as on a device, and its student."""
    teacher, path = make_network(arch).requires_grad_(False), folder / f"{arch}.safetensors"
    teacher.classes = BASE_CLASSES
    save_file(teacher.state_dict(), path)
    tensors = load_file(path)
    teacher.load_state_dict(tensors, assign=True)
    teacher.requires_grad_(False)
    teacher.mapped = mapped_from(path, (t for n, t in tensors.items() if n.startswith("backbone.")))
    teacher.freeze(frozen)
    student = teacher.student(trains=True)
    student.add_classes(NEW_CLASSES, torch.Generator().manual_seed(0))
    return teacher, student


def accumulate_by_autograd(student: Network, teacher: Network, batch: Batch, recipe: Recipe) -> None:
    """Computes the gradients of LwM's loss with Grad-CAM by its definition."""
    images, labels, N = torch.from_numpy(batch.pixels), torch.tensor(batch.labels), teacher.classes
    shared = student.stem(images)
    features, logits = student.after_stem(shared)
    with torch.no_grad():
        maps, _ = teacher.after_stem(shared)
    drop_mapped_pages(teacher.mapped)
    maps.requires_grad_()
    teacher_logits = teacher.classify(Activations(maps))
    b = logits[:, :N].argmax(1, keepdim=True)
    Q_student = grad_cam(features, logits.gather(1, b), create_graph=True)
    Q_teacher = grad_cam(maps, teacher_logits.gather(1, b))
    L_C = classification_loss(logits, labels, N, "sigmoid")
    L_D = distillation_loss(logits[:, :N], teacher_logits)
    L_AD = attention_distillation_loss(Q_student, Q_teacher)
    (L_C + recipe.beta * L_D + recipe.gamma * L_AD).backward()  # type: ignore[no-untyped-call]


def make_step(
    arch: str, frozen: int, name: RecipeName | Literal["lwm-autograd"], precision: Precision, folder: Path
) -> Callable[[], None]:
    """Makes a function that makes one update, which is too small to change anything."""
    teacher, student = make_pair(arch, frozen, folder)
    recipe = RECIPES["lwm" if name == AUTOGRAD else name]
    parameters = trained_parameters(student, recipe)
    optimizer, rates = MomentumSGD(parameters), dict.fromkeys(learning_rates(parameters, recipe), 1e-12)
    size, count = student.preprocessing.image_size, BATCH[arch]
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    batch = Batch(0, [BASE_CLASSES + n % NEW_CLASSES for n in range(count)], pixels)

    def step() -> None:
        if name == AUTOGRAD:
            accumulate_by_autograd(student, teacher, batch, recipe)
        else:
            accumulate_gradients(student, teacher, batch, count, recipe, "sigmoid", precision)
        optimizer.update(rates, 0.9, 1 / max(1.0, optimizer.gradient_norm()))

    return step


def measure_steps(architectures: list[str], threads: list[int], rounds: int) -> list[dict[str, Any]]:
    """Times every variant of a step in turn."""
    rows = []
    reduced: tuple[Precision, ...] = ("bfloat16",) if has_bfloat16(torch.device("cpu")) else ()
    precisions: tuple[Precision, ...] = ("float32", *reduced)
    for arch in architectures:
        for frozen in (0, FROZEN[arch]):
            with tempfile.TemporaryDirectory() as folder:
                steps = {
                    f"{name} {precision}": make_step(arch, frozen, name, precision, Path(folder))
                    for precision in precisions
                    for name in RECIPE_NAMES
                }
                steps[AUTOGRAD] = make_step(arch, frozen, AUTOGRAD, "float32", Path(folder))
                for count in threads:
                    torch.set_num_threads(count)
                    seconds = in_turn(steps, rounds)
                    rows.append(row_of_steps(arch, frozen, count, seconds, precisions))
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def row_of_steps(
    arch: str, frozen: int, threads: int, seconds: dict[str, list[float]], precisions: tuple[Precision, ...]
) -> dict[str, Any]:
    """Summarises the steps of one network."""
    unit = seconds["finetune float32"]
    return {
        "arch": arch,
        "batch": BATCH[arch],
        "frozen_blocks": frozen,
        "threads": threads,
        "finetune_ms": spread([1000 * s for s in unit]),
        "by_finetune": {name: ratio(values, unit) for name, values in seconds.items() if values is not unit},
        "lwm_by_lwf_mc": {p: ratio(seconds[f"lwm {p}"], seconds[f"lwf-mc {p}"]) for p in precisions},
    }


def in_turn(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times each action once a round; a first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def write_photos(folder: Path, classes: int, photos: int, side: tuple[int, int], seed: int = 0) -> None:
    """Writes JPEG files of textures, those of a class alike."""
    for number in range(classes):
        (folder / f"class {seed:03}.{number:03}").mkdir(parents=True)
        texture = np.random.default_rng([seed, number]).normal(0, 50, (24, 32, 3))
        for photo in range(photos):
            noise = np.random.default_rng([seed, number, photo]).normal(128, 40, (24, 32, 3))
            cells = (texture + noise).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(cells).resize(side, Image.Resampling.BICUBIC)
            image.save(folder / f"class {seed:03}.{number:03}" / f"{photo:03}.jpg", quality=90)


def measure_reader(photos: Path | None, image_size: int, rounds: int) -> dict[str, Any]:
    """Times an epoch of augmented batches, by the package and by torchvision."""
    from lwm_edge.model.architectures import _torchvision  # noqa: F401, I001  # must come first
    from torch.utils.data import DataLoader
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as made:
        folder = photos or Path(made)
        if photos is None:
            write_photos(folder, 5, 40, (1280, 960))
        half = (0.5, 0.5, 0.5)
        preprocessing = Preprocessing(image_size=image_size, resize_size=image_size, mean=half, std=half)
        found = read_photo_folder(folder, preprocessing, PixelCache(0), min_photos=1)
        listed = [photo for group in found.photos for photo in group]
        ours = PhotoSet(listed, preprocessing, PixelCache(0), augmentation_seed=0)
        config = IncrementConfig(epochs=1, batch_size=32)
        shift = round(image_size / 8)
        same = t.Compose(
            [
                t.Resize(image_size),
                t.CenterCrop(image_size),
                t.RandomCrop(image_size, padding=shift, padding_mode="reflect"),
                t.RandomHorizontalFlip(),
                t.PILToTensor(),
            ]
        )
        data = ImageFolder(str(folder), same)
        workers: dict[str, Any] = {
            f"torchvision, {count} workers": DataLoader(
                data, 32, shuffle=True, num_workers=count, persistent_workers=count > 0
            )
            for count in (0, 1, 2)
        }
        actions: dict[str, Callable[[], object]] = {
            "lwm-edge": lambda: sum(len(batch.labels) for batch in loaded_batches(ours, config, prefetch=1))
        }
        for name, loader in workers.items():
            actions[name] = partial(_photos_of, loader)
        torch.set_num_threads(1)
        seconds = in_turn(actions, rounds)
        return {
            "photos": len(listed),
            "image_size": image_size,
            "files": photos.name if photos else "textures of 1280x960",
            "photos_a_second": {
                n: spread([len(listed) / s for s in values]) for n, values in seconds.items()
            },
            "torchvision_by_lwm_edge": {n: ratio(seconds[n], seconds["lwm-edge"]) for n in workers},
        }


def _photos_of(loader: Iterable[Any]) -> int:
    return sum(len(labels) for _, labels in loader)


def measure_stream(base: Path, recipe: str, rounds: int) -> dict[str, Any]:
    """Makes twenty increments of one class; then the first and the last again, in turn."""
    config = IncrementConfig(recipe=recipe, epochs=2, force=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(INCREMENTS):
            write_photos(folder / f"photos{number}", 1, 40, (320, 240), number)
        home, each = lwm_edge.init_home(base, folder / "home").home, []
        for number in range(INCREMENTS):
            if number in (0, INCREMENTS - 1):
                shutil.copytree(home, folder / f"before{number}", symlinks=True)
            started = time.perf_counter()
            lwm_edge.add_classes(home, folder / f"photos{number}", config)
            each.append(round(time.perf_counter() - started, 3))
        seconds: dict[int, list[float]] = {0: [], INCREMENTS - 1: []}
        for _ in range(rounds):
            for number, values in seconds.items():
                again = shutil.copytree(folder / f"before{number}", folder / "again", symlinks=True)
                started = time.perf_counter()
                lwm_edge.add_classes(again, folder / f"photos{number}", config)
                values.append(time.perf_counter() - started)
                shutil.rmtree(again)
    first, last = seconds.values()
    return {
        "base": base.name,
        "recipe": recipe,
        "each_s": each,
        "last_by_first": ratio(last, first),
        "first_s": spread(first),
        "last_s": spread(last),
    }


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    part: Annotated[list[str], typer.Option(help="Parts to measure.")] = list(PARTS),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Times that each variant runs.")] = 15,
    arch: Annotated[list[str], typer.Option(help="Networks whose steps are timed.")] = list(FROZEN),  # noqa: B006
    threads: Annotated[list[int], typer.Option(help="Numbers of threads of a step.")] = [1, 2],  # noqa: B006
    photos: Annotated[Path | None, typer.Option(help="Photo folder to read, if not generated.")] = None,
    image_size: Annotated[int, typer.Option(help="Size to which the reader brings photos.")] = 128,
    base: Annotated[Path, typer.Option(help="Base of the stream, with room for 20 classes.")] = BASE_BUNDLE,
    recipe: Annotated[list[str], typer.Option(help="Recipes of the stream.")] = ["lda", "lwm"],  # noqa: B006
) -> None:
    """Measures, and writes the results."""
    measured: dict[str, Any] = {}
    if "stream" in part:  # first, as its processes keep their own allocator
        measured["stream"] = [measure_stream(base, name, rounds) for name in recipe]
        print(json.dumps(measured["stream"]), flush=True)
    bound_allocator()
    with freed_memory_kept(True):  # as in a training of twenty updates or more
        if "reader" in part:
            measured["reader"] = measure_reader(photos, image_size, rounds)
            print(json.dumps(measured["reader"]), flush=True)
        if "steps" in part:
            measured["steps"] = measure_steps(arch, threads, rounds)
    results.write_text(json.dumps({**provenance(), "rounds": rounds, **measured}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
