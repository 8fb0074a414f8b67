#!/usr/bin/env python3
"""Measures whether a head gains from random patches of photos, beside what it reads from the network.

    python benchmarks/patches.py BASE.lwm DATA RESULTS.json --name NAME --seed 1993 [--step-classes 10]

DATA has train/<class>/* and test/<class>/*, and BASE.lwm knows the first classes in the order of the seed, as
in `protocol.py`. The script draws patches from the training photos of those classes, whitens them, and uses
them as the filters of one convolution, as Coates et al. 2011 do ("An Analysis of Single-Layer Networks in
Unsupervised Feature Learning"). The outputs are rectified, once with each sign, and averaged over a grid of
2x2 cells. Then the same linear discriminant that devices use learns all classes from three kinds of values:
those of the network, those of the patches, and both. The patches' values count as values of an earlier block.

Each run adds a row to RESULTS.json and prints the table of all rows. The last column is the time that the
patches take for an image, in ONNX Runtime on one thread, as a share of the time of the base's ONNX file.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from few_photos import linked
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from provenance import provenance
from splits import class_order
from torch.nn import functional as F

from lwm_edge.home.export import verified_onnx
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.running import observe
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.levels import grid_means
from lwm_edge.model.loading import load_network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.pixels import Pixels
from lwm_edge.photos.preprocessing import Preprocessing

Values = NDArray[np.float32]
Labels = NDArray[np.int64]

GRID = 2
ADDED_VARIANCE = 1e-3  # added to all variances before whitening; pixels are in 0..1


class Patches:
    """Computes values of images from patches, in the way of one convolution.

    Args:
        images: Images to draw the patches from [M, H, W, 3] uint8.
        count: Number of patches.
        size: Side of a patch, in pixels.
        stride: Distance of neighbouring outputs, in pixels.
        threshold: What a whitened output must exceed to count, in standard deviations.
        seed: Seed of the draw.
    """

    def __init__(
        self, images: Pixels, count: int, size: int, stride: int, threshold: float, seed: int
    ) -> None:
        chance = np.random.default_rng(seed)
        height, width = images.shape[1:3]
        drawn = np.empty((100_000, 3 * size * size))
        for patch in drawn:
            i = chance.integers(len(images))
            y, x = chance.integers(height - size + 1), chance.integers(width - size + 1)
            patch[:] = images[i, y : y + size, x : x + size].transpose(2, 0, 1).ravel() / 255
        mean = drawn.mean(0)
        variances, directions = np.linalg.eigh(np.cov(drawn.T))
        whiten = directions / np.sqrt(variances + ADDED_VARIANCE) @ directions.T
        filters = (drawn[:count] - mean) @ whiten
        filters = filters / np.linalg.norm(filters, axis=1, keepdims=True) @ whiten
        filters /= ((drawn - mean) @ filters.T).std(0)[:, None]
        self._weight = torch.tensor(filters.reshape(count, 3, size, size), dtype=torch.float32)
        self._bias = torch.tensor(-filters @ mean, dtype=torch.float32)
        self._stride, self._threshold = stride, threshold

    @torch.inference_mode()
    def run(self, images: Pixels, *, keep_maps: bool) -> tuple[NDArray[np.float32], Any]:
        """Computes the values of images [B, H, W, 3] uint8 [B, 2 * count * GRID * GRID]."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        maps = F.conv2d(pixels, self._weight, self._bias, self._stride)
        both = torch.cat([F.relu(maps - self._threshold), F.relu(-maps - self._threshold)], 1)
        return grid_means(both, GRID).numpy(), None

    def onnx_file(self, image_size: int) -> bytes:
        """Makes an ONNX file that computes the values of images [1, image_size, image_size, 3] uint8."""
        side = (image_size - self._weight.shape[-1]) // self._stride + 1  # of the maps
        step = side // GRID
        cell = side - (GRID - 1) * step
        node = helper.make_node
        nodes = [
            node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            node("Conv", ["planes", "weight", "bias"], ["maps"], strides=[self._stride] * 2),
            node("Neg", ["maps"], ["negative"]),
            node("Concat", ["maps", "negative"], ["signed"], axis=1),
            node("Sub", ["signed", "threshold"], ["lower"]),
            node("Relu", ["lower"], ["rectified"]),
            node("AveragePool", ["rectified"], ["cells"], kernel_shape=[cell] * 2, strides=[step] * 2),
            node("Flatten", ["cells"], ["values"]),
        ]
        constants = {"weight": self._weight.numpy() / 255, "bias": self._bias.numpy()}
        constants["threshold"] = np.array(self._threshold, np.float32)
        graph = helper.make_graph(
            nodes,
            "patches",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, image_size, image_size, 3])],
            [helper.make_tensor_value_info("values", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        return bytes(model.SerializeToString())


def time_share(patches: bytes, network: bytes, image: Pixels) -> float:
    """Compares the times of two ONNX files, both of which take images [1, H, W, 3] uint8.

    Returns:
        The first one's processor time as a share of the second one's: the median of 300 pairs of runs.
    """
    import onnxruntime  # after lwm_edge, which turns its reports off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    both = [onnxruntime.InferenceSession(content, options) for content in (patches, network)]
    times = []
    for _ in range(300):
        pair = []
        for session in both:
            start = time.thread_time()
            session.run(None, {session.get_inputs()[0].name: image[None]})
            pair.append(time.thread_time() - start)
        times.append(pair[0] / pair[1])
    return float(np.median(times))


def photos_of(folder: Path, preprocessing: Preprocessing) -> PhotoSet:
    """Reads the photos of class folders; each photo's label is the index of its class by name."""
    cache = PixelCache(2**30)
    found = read_photo_folder(folder, preprocessing, cache, min_photos=1)
    return PhotoSet([photo for group in found.photos for photo in group], preprocessing, cache)


class Learner:
    """Learns from one kind of values, step by step.

    Args:
        classes: Number of classes in the end.
        values: Number of values.
        level_values: Number of values, the first ones, that count as those of earlier blocks.

    Attributes:
        accuracies: Accuracy after each step: the mean over all classes so far, from 0 to 1.
    """

    def __init__(self, classes: int, values: int, level_values: int) -> None:
        self.accuracies: list[float] = []
        self._statistics = ClassStatistics.empty(classes, values, level_values)
        self._tested, self._labels = np.empty((0, values), np.float32), np.empty(0, np.int64)

    def step(self, train: Values, test: Values, train_labels: Labels, test_labels: Labels) -> None:
        """Learns new classes from training photos, and then recognises all test photos so far."""
        self._statistics.learn(train.astype(np.float64), train_labels)
        self._tested = np.concatenate([self._tested, test])
        self._labels = np.concatenate([self._labels, test_labels])
        classes = int(self._labels.max()) + 1
        logits = self._statistics.solve_head(classes).logits(self._tested.astype(np.float64))
        right = logits.argmax(1) == self._labels
        self.accuracies.append(float(np.mean([right[self._labels == c].mean() for c in range(classes)])))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a Markdown table."""
    print("| base | seed | stride | the network's values | the patches' values | both | patches' time |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["name"], row["seed"], row["stride"]]
        for kind in ("network", "patches", "both"):
            steps = [100 * accuracy for accuracy in row[kind]]
            cells.append(f"{np.mean(steps):.1f} / {steps[-1]:.1f} ({row['values'][kind]} values)")
        cells.append(f"{row['time_share']:.2f}")
        print(f"| {' | '.join(map(str, cells))} |")


def main(
    base: Annotated[Path, typer.Argument(help="Base bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/<class> and test/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file that gets one more row.")],
    seed: Annotated[int, typer.Option(help="Seed of the class order and of the patches.")],
    name: Annotated[str, typer.Option(help="Name of the base in the table.")],
    step_classes: Annotated[int, typer.Option(min=1, help="Number of classes per step.")] = 10,
    count: Annotated[int, typer.Option(min=1, help="Number of patches.")] = 200,
    size: Annotated[int, typer.Option(min=2, help="Side of a patch, in pixels.")] = 6,
    stride: Annotated[int, typer.Option(min=1, help="Distance of neighbouring outputs, in pixels.")] = 1,
    threshold: Annotated[float, typer.Option(min=0, help="What outputs must exceed to count.")] = 0.5,
) -> None:
    """Measures one base."""
    torch.set_num_threads(1)
    bundle = open_bundle(base)
    network, preprocessing = load_network(bundle), bundle.manifest.preprocessing
    order, known = class_order(data, seed, bundle.manifest.class_names), len(bundle.manifest.class_names)
    levels, d = bundle.manifest.levels, network.head.in_features
    early, added = levels.values if levels else 0, 2 * count * GRID * GRID
    learners = {
        "network": Learner(len(order), d, early),
        "patches": Learner(len(order), added, added),
        "both": Learner(len(order), added + d, added + early),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = photos_of(linked(place / "base", data, "train", order[:known]), preprocessing)
        images = first.load(range(len(first.photos)))
        patches = Patches(images, count, size, stride, threshold, seed)
        for start in [0, *range(known, len(order), step_classes)]:
            step = order[start : start + step_classes] if start else order[:known]
            learnt, tested = (
                photos_of(linked(place / split, data, split, step), preprocessing)
                for split in ("train", "test")
            )
            labels = [np.array(photos.labels) + start for photos in (learnt, tested)]
            values: dict[str, list[Values]] = {"network": [], "patches": [], "both": []}
            for photos in (learnt, tested):
                found = [
                    observe(one, photos, 64).head_inputs.astype(np.float32) for one in (patches, network)
                ]
                for kind, some in zip(values, [found[1], found[0], np.concatenate(found, 1)], strict=True):
                    values[kind].append(some)
            for kind, learner in learners.items():
                learner.step(*values[kind], *labels)
            shown = {kind: f"{100 * learner.accuracies[-1]:.1f}" for kind, learner in learners.items()}
            print(start + len(step), shown, flush=True)
    row = {"name": name, "seed": seed, "count": count, "size": size, "stride": stride, "threshold": threshold}
    row |= {kind: learner.accuracies for kind, learner in learners.items()}
    row["values"] = {"network": d, "patches": added, "both": added + d}
    network_file, _, _ = verified_onnx(bundle)
    row["time_share"] = time_share(patches.onnx_file(preprocessing.image_size), network_file, images[0])
    done = json.loads(results.read_text()) if results.exists() else {"runs": []}
    done["runs"].append({**row, **provenance()})
    results.write_text(json.dumps(done, indent=1) + "\n")
    print_table(done["runs"])


if __name__ == "__main__":
    typer.run(main)
