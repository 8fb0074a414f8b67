"""`auto` trains only if photos, time and memory suffice, and keeps the better of two models."""

from __future__ import annotations

import importlib
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lwm_edge import (
    IncrementConfig,
    IncrementReport,
    add_classes,
    audit,
    init_home,
    open_home,
    plan_increment,
)
from lwm_edge.cli import display, receipt
from lwm_edge.errors import ConfigError, ResourceError, StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment import approach, comparison, coverage, learn, student
from lwm_edge.increment.add import may_train
from lwm_edge.increment.learn import learn_classes
from lwm_edge.increment.task import set_up
from lwm_edge.increment.timing import Timer
from lwm_edge.increment.values import Approach
from lwm_edge.learning.feature_map import MAX_LEVERAGE
from lwm_edge.learning.reports import DriftReport
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.tensors import RIGHT, RIGHT_SOLVED, TOTAL
from lwm_edge.records import Progress, ignore_progress
from tests.support.folders import PhotoMaker
from tests.support.samples import DEVICE, WITHOUT_LEVELS

AUTO = IncrementConfig(epochs=1, batch_size=16, micro_batch_size=16, device=DEVICE)


@pytest.fixture(autouse=True)
def _photos_cover_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets any photos show how training moves known classes; those of two classes do not cover the others."""
    monkeypatch.setattr(coverage, "MAX_LEVERAGE", np.inf)


@pytest.fixture
def small(tmp_path: Path) -> Home:
    """Makes a home whose head reads 64 values, so that 128 photos show how these drift."""
    base = open_bundle(WITHOUT_LEVELS)
    arrays = base.arrays()
    arrays[RIGHT][:6], arrays[RIGHT_SOLVED][:6], arrays[TOTAL][:6] = 40, 40, 50
    save_bundle(tmp_path / "measured.lwm", arrays, base.manifest)
    init_home(tmp_path / "measured.lwm", tmp_path / "small")
    return open_home(tmp_path / "small")


@pytest.fixture
def photos(make_photos: PhotoMaker) -> Path:
    """Makes a folder of 160 photos to learn from and 40 to hold back."""
    return make_photos("Bag", "Ankle boot", count=100)


def _figures(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[float, float | None]) -> None:
    """Replaces the figures for the trained network and for the unchanged one."""
    found = iter(pairs)
    monkeypatch.setattr(comparison, "_accuracy", lambda task, learnt: next(found))
    monkeypatch.setattr(comparison, "is_clearly_better", lambda *_: pairs[0][0] > pairs[1][0])


def _add(home: Home, photos: Path, config: IncrementConfig = AUTO) -> IncrementReport:
    return add_classes(home, photos, config, isolate=False)


def test_the_trained_network_is_kept_if_it_is_better(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = small.open_bundle().arrays()
    _figures(monkeypatch, (0.9, 0.8), (0.85, 0.8))
    report = _add(small, photos)
    after = small.open_bundle()
    assert report.recipe == after.manifest.recipe == "lwm-lda" and report.training is not None
    assert any(not np.array_equal(before[n], after.arrays()[n]) for n in before if "backbone" in n)
    assert report.comparison is not None and report.comparison.kept == "trained"
    assert report.recipe_reason == (
        "160 photos are enough to show how training would move 64 features, so the network may learn; the "
        "trained network is the better "
        "one: with training, 90.0% of the held-back photos are recognised, and without it 85.0%; the "
        "accuracy on the shipped classes is estimated at 80.0% with training and 80.0% without it"
    )
    receipt.new_classes(report)
    assert "so the trained network was kept" in " ".join(capsys.readouterr().out.split())
    assert audit(small).passed


@pytest.mark.parametrize(
    "trained",
    [(0.85, 0.8), (0.95, 0.79), (0.95, None)],
    ids=["as many new", "worse on shipped", "no figure for shipped"],
)
def test_otherwise_the_network_stays_as_it_was(
    small: Home,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: tuple[float, float | None],
) -> None:
    before = small.open_bundle().arrays()
    _figures(monkeypatch, trained, (0.85, 0.8))
    report = _add(small, photos)
    after = small.open_bundle()
    assert report.recipe == after.manifest.recipe == "lda" and report.training is None
    assert all(np.array_equal(before[n], after.arrays()[n]) for n in before if "backbone" in n)
    assert report.comparison is not None and report.comparison.kept == "unchanged"
    assert report.recipe_reason.startswith("the network stays as it was, as training did not make the model")
    assert ("is safe for the shipped classes" in report.recipe_reason) == (trained[1] is None)
    assert not small.training.exists() and audit(small).passed


def test_a_model_whose_training_was_given_up_is_the_instant_one(
    small: Home, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small.path, tmp_path / "instant", symlinks=True)
    _figures(monkeypatch, (0.84, 0.8), (0.85, 0.8))
    report = _add(small, photos)
    instant = _add(open_home(tmp_path / "instant"), photos, AUTO.model_copy(update={"instant": True}))
    assert instant.recipe == "lda" and instant.comparison is None
    assert instant.recipe_reason.startswith("the settings ask for an instant increment")
    after, other = (home.open_bundle().arrays() for home in (small, open_home(tmp_path / "instant")))
    for name in ("head.weight", "statistics.means"):  # torch and ONNX Runtime round differently
        scale = np.abs(other[name]).max()
        np.testing.assert_allclose(after[name], other[name], rtol=0, atol=1e-3 * scale)
    assert [(c.right, c.photos) for c in report.judged] == [(c.right, c.photos) for c in instant.judged]


def test_photos_that_are_unlike_known_classes_train_nothing(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "MAX_LEVERAGE", MAX_LEVERAGE)
    before = small.open_bundle().arrays()
    report = _add(small, photos)
    after = small.open_bundle()
    assert report.recipe == after.manifest.recipe == "lda" and report.training is report.comparison is None
    assert all(np.array_equal(before[n], after.arrays()[n]) for n in before if "backbone" in n)
    assert re.fullmatch(
        r"the new photos are too unlike those of .+ to show how training would move these classes, so the "
        "network stays as it was",
        report.recipe_reason,
    )
    assert report.plan.trains and audit(small).passed


def test_a_recipe_that_was_chosen_trains_on_unlike_photos_but_warns(
    small: Home, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = AUTO.model_copy(update={"recipe": "lwm-lda"})
    shutil.copytree(small.path, tmp_path / "again", symlinks=True)
    assert not any("too unlike" in line for line in _add(small, photos, named).warnings)
    monkeypatch.setattr(coverage, "MAX_LEVERAGE", MAX_LEVERAGE)
    warned = _add(open_home(tmp_path / "again"), photos, named)
    assert warned.training and any("they may be confused with classes" in line for line in warned.warnings)


def test_a_photo_or_two_do_not_decide() -> None:
    labels = np.arange(40) % 2
    task: Any = SimpleNamespace(photos=SimpleNamespace(held_back=SimpleNamespace(labels=labels.tolist())))

    def learnt_with(wrong: int) -> Any:
        taken_for = np.where(np.arange(40) < wrong, 1 - labels, labels)
        return SimpleNamespace(held_back_logits=np.eye(2)[taken_for])

    assert comparison._recognises_clearly_more(task, learnt_with(0), learnt_with(10))
    assert not comparison._recognises_clearly_more(task, learnt_with(0), learnt_with(2))
    assert not comparison._recognises_clearly_more(task, learnt_with(10), learnt_with(0))


def test_the_figures_are_those_of_the_receipts(small: Home, photos: Path) -> None:
    report = _add(small, photos)
    assert report.comparison is not None and report.comparison.kept == "unchanged"
    assert report.comparison.trained_shipped_accuracy is not None and report.drift.shipped is not None
    # the receipt's own estimate is corrected by all photos, and not by the held-back ones alone
    assert report.comparison.unchanged_shipped_accuracy == pytest.approx(report.drift.shipped.now, abs=0.01)
    assert report.comparison.unchanged_new_accuracy == report.held_back.accuracy
    assert 0.5 < report.comparison.trained_new_accuracy <= 1


def test_training_that_would_take_too_long_is_left_out(small: Home, photos: Path) -> None:
    report = _add(small, photos, AUTO.model_copy(update={"time_budget_seconds": 0.01}))
    assert report.recipe == "lda" and report.training is None and not report.plan.trains
    assert "the budget is 0.01 s, so the network stays as it is" in report.recipe_reason
    assert not any("no effect" in line for line in report.warnings[1:])


def test_a_recipe_that_is_named_may_take_any_time(small: Home, photos: Path) -> None:
    named = AUTO.model_copy(update={"recipe": "lwm-lda", "time_budget_seconds": 0.01})
    report = _add(small, photos, named)
    assert report.recipe == "lwm-lda" and report.comparison is None


def test_interrupted_training_continues_whatever_the_budget(small: Home, photos: Path) -> None:
    _interrupt(small, photos)
    seen: list[Progress] = []
    config = AUTO.model_copy(update={"time_budget_seconds": 0.01})
    report = add_classes(small, photos, config, on_progress=seen.append, isolate=False)
    assert next(p.done for p in seen if p.phase == "train") == 3 and report.comparison is not None


def test_too_little_memory_for_training_makes_the_increment_instant(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned() -> Approach:
        with small.lock():
            return set_up(small, photos, AUTO, ignore_progress, Timer(time.monotonic())).approach

    assert planned().name == "lwm-lda"
    with monkeypatch.context() as patch:
        patch.setattr(approach, "_LEAST_BYTES_FOR_TRAINING", 2**50)
        assert planned().name == "lda" and "more memory than is allowed" in planned().reason
    monkeypatch.setattr("lwm_edge.increment.rehearsal.saved_activation_bytes", lambda student: 2**40)
    assert planned().name == "lda" and "more memory than is allowed" in planned().reason


def test_a_worker_is_started_only_if_training_is_possible(
    small: Home, home: Home, photos: Path, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    assert may_train(small, photos, AUTO) and not may_train(home, photos, AUTO)
    assert not may_train(small, make_photos("Shirt", count=20, folder="few"), AUTO)
    assert not may_train(small, photos, AUTO.model_copy(update={"instant": True}))
    assert not may_train(small, tmp_path / "nothing", AUTO)
    assert may_train(small, tmp_path / "nothing", AUTO.model_copy(update={"recipe": "lwm"}))


def test_instant_goes_with_recipes_that_train_nothing() -> None:
    assert IncrementConfig(recipe="lda", instant=True).instant
    with pytest.raises(ConfigError, match="recipe lwm trains, so it is not instant; choose auto or lda"):
        IncrementConfig(recipe="lwm", instant=True)


def _interrupt(home: Home, photos: Path) -> None:
    """Stops training after its second step, and saves it."""
    asked = iter(range(1, 1000))
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, photos, AUTO, ignore_progress, lambda: next(asked) == 2)


def test_interrupted_training_is_not_lost_to_an_instant_increment(small: Home, photos: Path) -> None:
    _interrupt(small, photos)
    with pytest.raises(ConfigError, match=r"step 2.*--fresh") as refused:
        _add(small, photos, AUTO.model_copy(update={"instant": True}))
    assert refused.value.problems == ("instant is True now, and was False before",)
    assert small.training.exists()
    fresh = _add(small, photos, AUTO.model_copy(update={"instant": True, "fresh": True}))
    assert fresh.recipe == "lda" and not small.training.exists()


def test_interrupted_training_continues_or_says_how_much_memory_it_needs(small: Home, photos: Path) -> None:
    _interrupt(small, photos)
    little = AUTO.model_copy(update={"max_memory": 8 * 2**20})
    assert may_train(small, photos, little)
    with pytest.raises(ResourceError, match="8 MiB of memory is too little"):
        _add(small, photos, little)
    enough = AUTO.model_copy(update={"max_memory": 2**32})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approach, "_LEAST_BYTES_FOR_TRAINING", 2**40)
        assert may_train(small, photos, enough) and _add(small, photos, enough).comparison is not None


def test_nothing_is_trained_if_nobody_could_tell_what_it_costs(
    home: Home, tmp_path: Path, photos: Path
) -> None:
    init_home(WITHOUT_LEVELS, tmp_path / "unmeasured")
    unmeasured = open_home(tmp_path / "unmeasured")
    assert not may_train(unmeasured, photos, AUTO)
    report = _add(unmeasured, photos)
    assert report.recipe == "lda" and report.comparison is None and not report.plan.trains
    assert report.recipe_reason == (
        "the accuracy that the shipped classes would lose by training cannot be estimated, so the network "
        "stays as it is"
    )


def test_no_worker_is_started_if_memory_is_too_small_for_training(small: Home, photos: Path) -> None:
    assert not may_train(small, photos, AUTO.model_copy(update={"max_memory": 599 * 2**20}))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"device": "cuda"}, "training is not possible (torch finds no GPU that it can use"),
        ({"frozen_blocks": 12}, "training is not possible (all blocks are frozen"),
    ],
)
def test_settings_that_rule_training_out_make_the_increment_instant(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    report = _add(small, photos, AUTO.model_copy(update=settings))
    assert report.recipe == "lda" and why in report.recipe_reason
    assert any("no effect" in line and next(iter(settings)) in line for line in report.warnings)


def _broken_torch(name: str, *args: Any, **kwargs: Any) -> Any:
    if name == "architectures" and args[2] == ("_torchvision",):
        raise OSError("libcudart.so.12: cannot open shared object file: No such file or directory")
    return importlib.__import__(name, *args, **kwargs)


def test_broken_torch_makes_the_increment_instant(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.__import__", _broken_torch)
    report = _add(small, photos)
    assert report.recipe == "lda" and "torchvision, and they cannot be loaded here" in report.recipe_reason


def test_auto_cannot_keep_a_limit_on_attention(small: Home, photos: Path) -> None:
    limited = AUTO.model_copy(update={"max_attention_distance": 0.0})
    with pytest.raises(ConfigError, match="recipe lda, which auto may choose, runs without it"):
        _add(small, photos, limited)


def test_a_better_network_that_the_gate_would_refuse_is_not_kept(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _figures(monkeypatch, (0.95, 0.8), (0.85, 0.8))
    trained = iter([0.0, 1.0])
    drift = DriftReport(base_agreement=0, probability_change=0, attention_distance=None, shipped=None)

    def find_drift(*_: object) -> DriftReport:
        return drift.model_copy(update={"base_agreement": next(trained)})

    monkeypatch.setattr(comparison, "find_drift", find_drift)
    monkeypatch.setattr(learn, "find_drift", find_drift)
    report = _add(small, photos, AUTO.model_copy(update={"min_base_agreement": 0.5}))
    assert report.recipe == "lda" and report.comparison is not None and report.comparison.gate_refuses_trained
    assert report.recipe_reason.startswith(
        "the network stays as it was, although training made the model better"
    )
    assert report.recipe_reason.endswith("the gate would refuse the trained network")
    receipt.new_classes(report)
    assert "trained network; so the network stayed as it was" in " ".join(capsys.readouterr().out.split())


def test_warnings_about_training_go_with_the_trained_network(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "few_cells_warnings", lambda network, cells: ["few cells"])
    _figures(monkeypatch, (0.8, 0.8), (0.85, 0.8))
    assert "few cells" not in _add(small, photos).warnings


def test_a_plan_says_which_recipe_will_run_and_why(
    small: Home, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan_increment(small, photos, AUTO, isolate=False)
    assert planned.trains and planned.recipe == "lwm-lda"
    assert planned.recipe_reason.endswith(
        "; the trained model is kept only if it is clearly better than that of lda"
    )
    tight = AUTO.model_copy(update={"time_budget_seconds": 0.01})
    planned = plan_increment(small, photos, tight, isolate=False)
    assert planned.recipe == "lda" and "and the budget is 0.01 s" in planned.recipe_reason
    display.plan(planned)
    assert "Recipe lda: with training, the increment would" in " ".join(capsys.readouterr().out.split())


def test_training_that_diverges_leaves_the_network_as_it_was(
    small: Home, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "few_cells_warnings", lambda network, cells: ["few cells"])
    wild = AUTO.model_copy(update={"learning_rate": 1e30, "max_gradient_norm": 1e30})
    report = _add(small, photos, wild)
    assert report.recipe == "lda" and report.training is None and report.comparison is None
    assert report.recipe_reason == "the training diverged, so the network stays as it was"
    assert "few cells" not in report.warnings  # that is about training
    assert not small.training.exists() and audit(small).passed
