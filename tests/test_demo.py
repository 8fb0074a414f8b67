"""The demo is run as a user runs it, and its table shows the right methods and figures.

The demo takes most of a minute. `.ci/run` runs it before the tests, with the README's command, and names the
file with its output in `LWM_EDGE_DEMO_PRINTED`. If that is not set, the demo is run here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lwm_edge import Classifier
from lwm_edge.demo import DEMO_DATA
from lwm_edge.learning.baselines import NearestClassMean, StreamingLda
from lwm_edge.model.tensors import AXES_COUNT


@dataclass(frozen=True)
class Printed:
    """Holds the output of `lwm-edge demo`.

    Attributes:
        steps: Accuracies by method, in %. The first item has only the accuracy of the base on the shipped
            classes. Each further item has three accuracies after another increment: on the shipped classes,
            on the added classes, and on all classes.
        footprint: Lines of the footprint, by name.
    """

    steps: dict[str, list[list[float]]]
    footprint: dict[str, str]

    @classmethod
    def read(cls, text: str) -> Printed:
        cells = [[cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in text.splitlines()]
        steps = {
            method: [[float(share) for share in step.split(" / ")] for step in steps]
            for method, *steps in filter(None, cells)
            if method != "Method"
        }
        return cls(steps, dict(re.findall(r"^  (\w[\w ]*?)  +(.+)$", text, re.MULTILINE)))

    def bytes_of(self, name: str) -> list[int]:
        return [int(size.replace(",", "")) for size in re.findall(r"[\d,]+", self.footprint[name])]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    if named := os.environ.get("LWM_EDGE_DEMO_PRINTED"):
        return Printed.read(Path(named).read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "lwm_edge", "demo", "--folder", str(tmp_path_factory.mktemp("demo"))]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    shown = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    return Printed.read(shown.stdout)


@pytest.mark.slow
def test_the_table_has_the_recipes_and_the_baselines(printed: Printed) -> None:
    steps = printed.steps
    assert list(steps) == [
        "auto: lda", "lwm", "finetune", "frozen, nearest mean", "frozen, streaming LDA",
    ]  # fmt: skip
    for shipped, *increments in steps.values():
        assert len(shipped) == 1 and shipped[0] > 90 and [len(step) for step in increments] == [3, 3]
    lwm, finetune = steps["lwm"][2], steps["finetune"][2]
    assert lwm[2] > finetune[2] + 20
    assert lwm[0] > finetune[0] + 10


@pytest.mark.slow
def test_the_default_is_above_the_baselines(printed: Printed) -> None:
    default, _, _, nearest_mean, streaming_lda = (steps[2][2] for steps in printed.steps.values())
    assert default > max(nearest_mean, streaming_lda) + 2


@pytest.mark.slow
def test_the_bundle_keeps_its_length_and_the_onnx_file_gains_rows(printed: Printed) -> None:
    bundles = printed.bytes_of("Bundle")
    assert len(bundles) == 3 and len(set(bundles)) == 1 and printed.footprint["Audit"] == "passed"
    growth = np.diff(printed.bytes_of("ONNX file"))
    rows = 2 * (496 + 1 + AXES_COUNT + 1) * 4
    assert len(growth) == 2 and all(rows < g < rows + 60 for g in growth)


@pytest.mark.slow
def test_the_demos_onnx_file_knows_all_ten_classes(printed: Printed) -> None:
    assert len(Classifier(printed.footprint["File to load"]).class_names) == 10


def test_the_excerpt_is_complete_and_licensed() -> None:
    assert len(list((DEMO_DATA / "train").glob("*/*/*.png"))) == 1000
    assert len(list((DEMO_DATA / "test").glob("*/*/*.png"))) == 500
    assert "Zalando" in (DEMO_DATA / "LICENSE").read_text()


def test_baselines_on_points_that_can_be_checked_by_eye() -> None:
    features = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    labels = np.array([0, 0, 1, 1])
    queries = np.array([[5.0, 1.0], [0.2, 0.9]])
    for baseline in (NearestClassMean(), StreamingLda(capacity=9, d=2)):
        baseline.learn(features[:2], labels[:2])
        baseline.learn(features[2:], labels[2:])
        assert baseline.predict(queries).tolist() == [0, 1]


def test_streaming_lda_uses_the_shared_covariance() -> None:
    """Both classes vary along the first axis, so the second must decide, though it varies less."""
    spread = np.linspace(-10, 10, 21)
    lda = StreamingLda(capacity=2, d=2)
    for label, height in ((0, 0.0), (1, 1.0)):
        points = np.stack([spread, np.full(21, height) + 0.01 * spread**2 % 0.1], axis=1)
        lda.learn(points, np.full(21, label))
    assert lda.predict(np.array([[9.0, 0.1], [-9.0, 1.0]])).tolist() == [0, 1]
