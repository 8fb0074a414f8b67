#!/usr/bin/env python3
"""Times training steps, the reading of photos, and a first and a late increment, and compares the times.

    python benchmarks/speed_training.py RESULTS.json [--part steps] [--rounds 15] [--arch resnet18 ...]

In a round each variant runs once, in turn, so that the machine's state is the same for all. Ratios are
computed within each round, and the tables give the median, the smallest and the largest ratio. The networks
are untrained, because speed does not depend on training.

    steps     one update of finetune, lwf-mc and lwm, from pixels to new weights, as in training, in float32
              and, if the processor supports it, in bfloat16, with all blocks trained and with the first ones
              frozen. lwm-autograd computes LwM's loss with Grad-CAM by its definition: a backward pass to
              the maps of each network, and a second one through the student's maps. All are relative to
              finetune in float32, and lwm also to lwf-mc.
    reader    photos per second, from JPEG files to batches of augmented pixels, compared with torchvision's
              ImageFolder and DataLoader with the same transforms
    stream    twenty increments of one class each; then the first and the last are made in turn, many times,
              each on a copy of the home from before that increment
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from provenance import provenance
from safetensors.torch import load_file, save_file
from speed import make_network, ratio, spread
from speed_photos import in_turn, measure_reader, measure_stream

from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.freed_memory import bound_allocator, drop_mapped_pages, freed_memory_kept, mapped_from
from lwm_edge.learning.attention import grad_cam
from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import RECIPES, Recipe, RecipeName
from lwm_edge.learning.layout import channels_last
from lwm_edge.learning.losses import attention_distillation_loss, classification_loss, distillation_loss
from lwm_edge.learning.optimizer import MomentumSGD
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import learning_rates, trained_parameters
from lwm_edge.model.levels import Activations
from lwm_edge.model.network import Network
from lwm_edge.model.precision import has_bfloat16
from lwm_edge.model.terms import Precision

PARTS = ("steps", "reader", "stream")
FROZEN = {"resnet18": 6, "efficientnet_lite0": 14}  # ResNet-18's through layer1
BATCH = {"resnet18": 8, "efficientnet_lite0": 32}
RECIPE_NAMES: tuple[RecipeName, ...] = ("finetune", "lwf-mc", "lwm")
AUTOGRAD: Literal["lwm-autograd"] = "lwm-autograd"
BASE_CLASSES, NEW_CLASSES = 40, 5


def make_pair(arch: str, frozen: int, folder: Path) -> tuple[Network, Network]:
    """Makes a teacher whose tensors are mapped from a file, as on a device, and its student."""
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
    device, N = student.head.weight.device, teacher.classes
    images, labels = torch.from_numpy(batch.pixels).to(device), torch.tensor(batch.labels, device=device)
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
    arch: str,
    frozen: int,
    name: RecipeName | Literal["lwm-autograd"],
    precision: Precision,
    folder: Path,
    until: ExitStack,
    device: torch.device,
) -> Callable[[], None]:
    """Returns a function that makes one update with tiny rates; it works until the stack is closed."""
    teacher, student = (network.to(device) for network in make_pair(arch, frozen, folder))
    until.enter_context(channels_last(student, teacher, precision, True))
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
        if device.type == "cuda":
            torch.cuda.synchronize()  # a GPU computes on while the program goes on

    return step


def measure_steps(
    architectures: list[str],
    threads: list[int],
    rounds: int,
    clock: Callable[[], float],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Times the variants of a step in turn."""
    rows = []
    reduced: tuple[Precision, ...] = ("bfloat16",) if has_bfloat16(device) else ()
    precisions: tuple[Precision, ...] = ("float32", *reduced)
    for arch in architectures:
        for frozen in (0, FROZEN[arch]):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as until:
                steps = {
                    f"{name} {precision}": make_step(
                        arch, frozen, name, precision, Path(folder), until, device
                    )
                    for precision in precisions
                    for name in RECIPE_NAMES
                }
                steps[AUTOGRAD] = make_step(arch, frozen, AUTOGRAD, "float32", Path(folder), until, device)
                for count in threads:
                    torch.set_num_threads(count)
                    seconds = in_turn(steps, rounds, clock)
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


def print_table(measured: dict[str, Any]) -> None:
    """Prints the measurements as Markdown tables."""
    if steps := measured.get("steps"):
        names = [*steps[0]["by_finetune"], *(f"lwm / lwf-mc {p}" for p in steps[0]["lwm_by_lwf_mc"])]
        print("| network | blocks frozen | threads | ms of finetune | " + " | ".join(names) + " |")
        print("|---" * (len(names) + 4) + "|")
    for row in steps or ():
        ratios = [_shown(value) for part in ("by_finetune", "lwm_by_lwf_mc") for value in row[part].values()]
        milliseconds = f"{row['finetune_ms']['median']:.3g}"
        cells = [row["arch"], str(row["frozen_blocks"]), str(row["threads"]), milliseconds, *ratios]
        print("| " + " | ".join(cells) + " |")
    if reader := measured.get("reader"):
        print("\n| reader | photos a second | time, relative to lwm-edge |\n|---|---|---|")
        for name, speed in reader["photos_a_second"].items():
            relative = reader["torchvision_by_lwm_edge"].get(name)
            print(f"| {name} | {speed['median']:.0f} | {_shown(relative) if relative else '1'} |")
    if stream := measured.get("stream"):
        print("\n| recipe | seconds of increment 1 | of increment 20 | increment 20 / increment 1 |")
        print("|---|---|---|---|")
        for row in stream:
            first, last = (f"{row[name]['median']:.1f}" for name in ("first_s", "last_s"))
            print(f"| {row['recipe']} | {first} | {last} | {_shown(row['last_by_first'])} |")


def _shown(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['smallest']:.2f} to {value['largest']:.2f})"


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    part: Annotated[list[str], typer.Option(help="Parts to measure.")] = list(PARTS),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Number of times that each variant runs.")] = 15,
    arch: Annotated[list[str], typer.Option(help="Networks whose steps are timed.")] = list(FROZEN),  # noqa: B006
    threads: Annotated[list[int], typer.Option(help="Numbers of threads to try.")] = [1, 2],  # noqa: B006
    busy: Annotated[
        bool, typer.Option("--busy", help="Measure the steps' processor time, because the machine is busy.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device of the steps: cpu or cuda.")] = "cpu",
    photos: Annotated[Path | None, typer.Option(help="Folder of photos; by default, they are made.")] = None,
    image_size: Annotated[int, typer.Option(help="Side to which the reader scales photos.")] = 128,
    base: Annotated[
        Path, typer.Option(help="Base of the stream, with room for 20 more classes.")
    ] = BASE_BUNDLE,
    recipe: Annotated[list[str], typer.Option(help="Recipes of the stream.")] = ["lda", "lwm"],  # noqa: B006
) -> None:
    """Makes the measurements, and writes the results."""
    measured: dict[str, Any] = {"steps_clock": "processor time" if busy else "wall time"}
    if device == "cuda":
        measured["gpu"] = torch.cuda.get_device_name()
    clock = time.process_time if busy else time.perf_counter
    if "stream" in part:  # first, before this process's allocator is limited below
        measured["stream"] = [measure_stream(base, name, rounds) for name in recipe]
        print(json.dumps(measured["stream"]), flush=True)
    bound_allocator()
    with freed_memory_kept(True):  # as in training with twenty updates or more
        if "reader" in part:
            measured["reader"] = measure_reader(photos, image_size, rounds)
            print(json.dumps(measured["reader"]), flush=True)
        if "steps" in part:
            measured["steps"] = measure_steps(arch, threads, rounds, clock, torch.device(device))
    results.write_text(json.dumps({**provenance(), "rounds": rounds, "measured": measured}, indent=1) + "\n")
    print_table(measured)


if __name__ == "__main__":
    typer.run(main)
