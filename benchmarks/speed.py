#!/usr/bin/env python3
"""Measures how fast the exported file runs and how long commands take from start to finish.

    python benchmarks/speed.py RESULTS.json [--rounds 7] [--arch efficientnet_lite0 ...]
    python benchmarks/speed.py RESULTS.json --arch efficientnet_lite0@224 [--arch efficientnet_lite1@240 ...]
    python benchmarks/speed.py RESULTS.json --only-commands

In a round the variants run in turn, each in a new process, so that the machine's state is the same for all. A
process gives the median time of one photo, and each figure is the median over the rounds. The networks are
untrained, because speed does not depend on training. There are three variants, each with one and with two
threads:

    before    the graph as it was exported before schema 2: opset 18, with a zero bias for each convolution
    after     the graph as it is exported now
    eager     torch, in eval mode, without gradients, from the same uint8 images

For commands, the unit is the time of `python -c "import numpy, onnxruntime"`. `--help`, and `predict` on one
photo, each run in a new process with a warm disk cache. `predict_warm` is the time of one more photo in the
same process. Loading the file (creating the session) is listed separately.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from provenance import provenance

ARCHITECTURES = ("efficientnet_lite0", "resnet18", "mobilenet_v2")
VARIANTS = ("before", "after", "eager")
THREADS = (1, 2)
UNTIMED, TIMED = 5, 40
IMAGE_SIZES = {"efficientnet_lite0": 128}
UNIT = "import numpy, onnxruntime"


def write_files(arch: str, folder: Path) -> None:
    """Writes both exported files of an untrained network."""
    import numpy as np
    import torch

    from lwm_edge.model.bundle import ONNX_GRAPH, empty_tensors
    from lwm_edge.model.loading import network_arrays
    from lwm_edge.model.manifest import Manifest
    from lwm_edge.model.onnx.graph import fill_graph
    from lwm_edge.model.onnx.tracing import trace_graph

    network = make_network(arch)
    classes = network.classes
    manifest = Manifest(
        architecture=arch.partition("@")[0],
        preprocessing=network.preprocessing,
        activation="sigmoid",
        class_names=tuple(f"class {n}" for n in range(classes)),
        shipped_classes=classes,
        capacity=classes,
        bundle_bytes=0,
        recipe="base",
        tensors_digest="0" * 64,
    )
    graph = np.frombuffer(trace_graph(network, "sigmoid"), np.uint8)
    nothing_measured = empty_tensors(network.head.out_features, network.head.in_features)
    content = fill_graph({**network_arrays(network), **nothing_measured, ONNX_GRAPH: graph}, manifest)
    (folder / f"{arch}-after.onnx").write_bytes(content)
    size = network.preprocessing.image_size
    program = torch.onnx.export(
        BeforeSchema2(network),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamo=True,
        optimize=False,
        opset_version=18,
        input_names=["image"],
        output_names=["logits", "probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    program.save(folder / f"{arch}-before.onnx")


def make_network(arch: str) -> Any:
    """Makes an untrained network of 80 classes."""
    import torch

    from lwm_edge.model.architectures.registry import find_architecture
    from lwm_edge.model.architectures.surgery import take_apart
    from lwm_edge.model.network import Network

    name, _, given_size = arch.partition("@")
    architecture = find_architecture(name)
    torch.manual_seed(0)
    backbone, head = take_apart(architecture.build(), architecture, name)
    size = int(given_size) if given_size else IMAGE_SIZES.get(name, architecture.preprocessing.image_size)
    preprocessing = architecture.preprocessing.model_copy(update={"image_size": size, "resize_size": size})
    full_head = torch.nn.Linear(head.in_features, 80)
    return Network(backbone, full_head, 80, preprocessing).eval()


def BeforeSchema2(network: Any) -> Any:  # noqa: N802
    """Makes the module that was exported before schema 2; it transposed the image before the cast."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = network.backbone, network.head

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            preprocessing = network.preprocessing
            mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
            std = torch.tensor(preprocessing.std).view(3, 1, 1)
            pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255
            logits = self.head(self.backbone((pixels - mean) / std).mean((2, 3)))
            return logits, logits.sigmoid()

    return Module().eval()


def time_variant(arch: str, variant: str, threads: int, folder: Path) -> float:
    """Returns the median time of one photo in this process, in milliseconds."""
    import numpy as np

    if variant == "eager":
        import torch

        torch.set_num_threads(threads)
        network = make_network(arch)
        size = network.preprocessing.image_size
        image = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        )

        def run() -> None:
            with torch.no_grad():
                network(image)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = folder / f"{arch}-{variant}.onnx"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        size = session.get_inputs()[0].shape[1]
        photo = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)

        def run() -> None:
            session.run(["logits", "probabilities"], {"image": photo})

    times = []
    for number in range(UNTIMED + TIMED):
        started = time.perf_counter()
        run()
        if number >= UNTIMED:
            times.append(1000 * (time.perf_counter() - started))
    return median(times)


def measure_networks(architectures: list[str], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Runs every variant of every network in turn, each in a new process."""
    rows = []
    for arch in architectures:
        subprocess.run(
            [sys.executable, __file__, "write", arch, str(folder)], check=True, capture_output=True
        )
        for threads in THREADS:
            times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
            for _ in range(rounds):
                for variant in VARIANTS:
                    command = [sys.executable, __file__, "time", arch, variant, str(threads), str(folder)]
                    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    times[variant].append(float(printed))
            rows.append(
                {
                    "arch": arch,
                    "threads": threads,
                    "after_by_before": ratio(times["after"], times["before"]),
                    "eager_by_after": ratio(times["eager"], times["after"]),
                    **{f"{variant}_ms": spread(values) for variant, values in times.items()},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def ratio(first: list[float], second: list[float]) -> dict[str, float]:
    """Computes the ratio of two variants in each round, and its median and spread."""
    return spread([a / b for a, b in zip(first, second, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Returns the median, the smallest and the largest value."""
    found = {"median": median(values), "smallest": min(values), "largest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def measure_commands(rounds: int, folder: Path) -> dict[str, Any]:
    """Times whole commands in new processes, in turn."""
    import lwm_edge
    from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA

    lwm_edge.init_home(BASE_BUNDLE, folder / "home")
    photo = next((DEMO_DATA / "test" / "base").glob("*/000.png"))
    program = [sys.executable, "-m", "lwm_edge"]
    commands = {
        "unit": [sys.executable, "-c", UNIT],
        "help": [*program, "--help"],
        "predict": [*program, "predict", str(photo), "--home", str(folder / "home")],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):  # the first round only warms the disk cache
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:
                times[name].append(1000 * (time.perf_counter() - started))
    started = time.perf_counter()
    classifier = lwm_edge.Classifier(folder / "home" / "current" / "classifier.onnx")
    loading = 1000 * (time.perf_counter() - started)
    warm = []
    for _ in range(TIMED):
        started = time.perf_counter()
        classifier.classify([photo])
        warm.append(1000 * (time.perf_counter() - started))
    return {
        "help_by_unit": ratio(times["help"], times["unit"]),
        "predict_by_unit": ratio(times["predict"], times["unit"]),
        **{f"{name}_ms": spread(values) for name, values in times.items()},
        "loading_ms": round(loading, 1),
        "predict_warm_ms": spread(warm),
    }


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    rounds: Annotated[int, typer.Option(min=1, help="Number of processes for each variant.")] = 7,
    arch: Annotated[list[str], typer.Option(help="NETWORK or NETWORK@SIZE.")] = list(ARCHITECTURES),  # noqa: B006
    only_commands: Annotated[bool, typer.Option(help="Measure whole commands instead of networks.")] = False,
) -> None:
    """Measures networks, or commands, and writes the results."""
    with tempfile.TemporaryDirectory() as folder:
        if only_commands:
            measured: dict[str, Any] = {"commands": measure_commands(rounds, Path(folder))}
            print(json.dumps(measured["commands"]))
        else:
            measured = {"networks": measure_networks(arch, rounds, Path(folder))}
    results.write_text(json.dumps({**provenance(), "rounds": rounds, **measured}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_files(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["time"]:
        print(time_variant(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5])))
    else:
        typer.run(main)
