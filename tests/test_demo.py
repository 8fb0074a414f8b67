"""The demo as a user runs it, and its table."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge import Classifier, DemoReport, run_demo
from lwm_edge.demo import DEMO_DATA
from lwm_edge.learning.baselines import NearestClassMean, StreamingLda


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_the_table_has_the_recipe_finetuning_and_the_baselines(report: DemoReport) -> None:
    rows = {row.method: row for row in report.rows}
    assert list(rows) == [
        "auto: lda", "lwm", "finetune", "frozen, nearest mean", "frozen, streaming LDA",
    ]  # fmt: skip
    assert all(row.old[0] > 0.9 and row.new[0] is None and len(row.all) == 3 for row in rows.values())
    assert rows["lwm"].all[2] > rows["finetune"].all[2] + 0.2
    assert rows["lwm"].old[2] > rows["finetune"].old[2] + 0.1


def test_the_default_is_above_the_baselines(report: DemoReport) -> None:
    default, _, _, nearest_mean, streaming_lda = report.rows
    assert default.all[2] > max(nearest_mean.all[2], streaming_lda.all[2]) + 0.02


def test_the_footprint_stays(report: DemoReport) -> None:
    assert len(set(report.bundle_bytes)) == 1 and report.audit_passed
    growth = np.diff(report.onnx_bytes)
    rows = 2 * (496 + 1) * 4
    assert all(rows < g < rows + 60 for g in growth)


def test_its_onnx_file_knows_all_ten_classes(report: DemoReport) -> None:
    assert len(Classifier(report.onnx).class_names) == 10


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
    """Both classes spread along the first axis, so the second one decides although it is the shorter way."""
    spread = np.linspace(-10, 10, 21)
    lda = StreamingLda(capacity=2, d=2)
    for label, height in ((0, 0.0), (1, 1.0)):
        points = np.stack([spread, np.full(21, height) + 0.01 * spread**2 % 0.1], axis=1)
        lda.learn(points, np.full(21, label))
    assert lda.predict(np.array([[9.0, 0.1], [-9.0, 1.0]])).tolist() == [0, 1]
