"""A run of the benchmarks' protocol continues after a kill; its table and its variants are correct."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwm_edge
from lwm_edge.demo import BASE_CLASSES, INCREMENTS
from lwm_edge.errors import ConfigError
from lwm_edge.learning import discriminant
from lwm_edge.learning.batches import Pace
from lwm_edge.learning.config import RECIPES, IncrementConfig
from lwm_edge.learning.training import train_increment
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.records import ignore_progress
from tests.support.folders import BASE_BUNDLE, DEMO_DATA
from tests.support.pages import ROOT
from tests.support.samples import WITHOUT_LEVELS, photo_set


class KilledError(BaseException):
    """Ends a run as a kill would, because the run does not catch this error."""


@pytest.fixture(autouse=True)
def _scripts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Arranges the demo's ten classes for the scripts, with twelve training and twelve test photos each."""
    for source in [*DEMO_DATA.glob("train/*/*"), *DEMO_DATA.glob("test/*/*")]:
        target = tmp_path / "data" / source.parts[-3] / source.name
        target.mkdir(parents=True)
        for photo in sorted(source.iterdir())[:12]:
            shutil.copy(photo, target)
    return tmp_path / "data"


def _run(data: Path, work: Path, method: str = "lda") -> list[dict[str, Any]]:
    """Runs a method on the demo's classes, from the demo's base."""
    splits, methods, kept_steps = map(importlib.import_module, ("splits", "methods", "kept_steps"))
    split = splits.Split(data, work, 0, 6, 2, None, 8)
    split.groups = [list(BASE_CLASSES), *map(list, INCREMENTS)]
    kept = kept_steps.KeptSteps(work / "steps.json", {"photos": 8})
    methods.run_recipe(split, BASE_BUNDLE, method, {"force": True}, kept)
    return [{k: v for k, v in s.items() if k not in ("seconds", "peak_rss_bytes")} for s in kept.steps]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_after_its_last_finished_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(data, tmp_path / "whole")
    assert [step["classes"] for step in whole] == [6, 8, 10]
    calls: list[str] = []

    def killed(name: str, call: int) -> None:
        """Makes a public function end the run at the call with this number."""
        function = getattr(lwm_edge, name)

        def killing(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if calls.count(name) == call:
                raise KilledError
            return function(*args, **kwargs)

        monkeypatch.setattr(lwm_edge, name, killing)

    killed("add_classes", 2)
    with pytest.raises(KilledError):  # before the second increment; the first one's step was kept
        _run(data, tmp_path / "killed")
    killed("evaluate", 1)
    with pytest.raises(KilledError):  # after the second increment's commit; its step was not yet kept
        _run(data, tmp_path / "killed")
    assert _run(data, tmp_path / "killed") == whole
    assert calls.count("add_classes") == 3  # two, and the one that was killed


@pytest.fixture
def kept_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Returns KeptSteps with a made-up commit, because a release is tested outside a checkout."""
    module = importlib.import_module("kept_steps")
    monkeypatch.setattr(module, "provenance", lambda: {"commit": "89abcde"})
    kept: Callable[..., Any] = module.KeptSteps
    return kept


def test_steps_with_other_settings_are_not_continued(kept_steps: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "work" / "steps.json"
    kept_steps(path, {"epochs": 5}).add({"all": 0.5})
    again = kept_steps(path, {"epochs": 5})
    assert again.steps == [{"all": 0.5}] and again.seconds > 0 and again.provenance()["commit"] == "89abcde"
    assert kept_steps(path, {"epochs": 10}).steps == []
    again.forget()
    assert kept_steps(path, {"epochs": 5}).steps == []


def test_photos_of_base_classes_and_of_new_ones_can_be_limited(data: Path, tmp_path: Path) -> None:
    split = importlib.import_module("splits").Split(data, tmp_path, 0, 6, 2, None, 8, base_photos=5)
    counts = [{len(list(folder.iterdir())) for folder in split.train(group).iterdir()} for group in (0, 1, 2)]
    assert counts == [{5}, {8}, {8}]


def test_a_variant_spreads_the_imagined_photos_equally() -> None:
    variants, covariance = importlib.import_module("variants"), np.diag([4.0, 1.0, 1.0])
    with variants.applied(variants.Variant(prior="equal")):
        equal = discriminant.shrink(covariance, 1, 1)
    np.testing.assert_allclose(equal, covariance / 4 + 1.5 * np.eye(3))
    assert discriminant.shrink(covariance, 1, 1)[0, 0] > equal[0, 0]


def test_a_run_that_two_commits_made_names_both(kept_steps: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    kept_steps(path, {}).add({"all": 0.5})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commits": ["0123456"]}))
    assert kept_steps(path, {}).provenance()["commit"] == "0123456, 89abcde"


def test_held_out_photos_are_not_learnt_and_no_test_photo_is_read(data: Path, tmp_path: Path) -> None:
    split = importlib.import_module("splits").Split(data, tmp_path / "work", 7, 2, 2, 4, 5, held_out=3)
    for group, photos in ((0, 9), (1, 5)):
        learnt, held_out = (
            {path.relative_to(folder) for path in folder.glob("*/*")}
            for folder in (split.train(group), split.test_new(group))
        )
        assert len(learnt) == 2 * photos and len(held_out) == 2 * 3 and not learnt & held_out
    assert len(list(split.test(1).glob("*/*"))) == 4 * 3
    of_test = {path.read_bytes() for path in (data / "test").glob("*/*")}
    assert not of_test & {path.read_bytes() for path in (tmp_path / "work").glob("*/*/*")}


def test_the_table_has_top5_if_the_results_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"classes": 6, "all": 0.5, "base": 0.5, "newest": 0.5, "per_class": {"a": 0.5}}
    settings = {"data": "demo", "step_classes": 2}
    old, new = ({"method": name, "seed": 1, "steps": [step, step]} for name in ("lda", "lwm"))
    new["steps"] = [step | {"top5": 0.8}, step | {"top5": 0.9}]
    table, path = importlib.import_module("table"), tmp_path / "results.json"
    path.write_text(json.dumps({"settings": settings, "runs": [old]}))
    table.main([path])
    assert "top-5" not in capsys.readouterr().out
    path.write_text(json.dumps({"settings": settings, "runs": [old, new]}))
    table.main([path])
    _, _, heading, _, *rows = capsys.readouterr().out.splitlines()
    assert "| forgetting | top-5, average | top-5, last |" in heading
    assert "| 50.0 | 0.0 |  |  |" in rows[0] and "| 50.0 | 0.0 | 85.0 | 90.0 |" in rows[1]


def _trained(variant: Any) -> torch.Tensor:
    """Trains a student for four updates as a variant says; returns all its tensors in one vector."""
    teacher = load_network(open_bundle(WITHOUT_LEVELS))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = teacher.student(trains=True)
    student.add_classes(2, torch.Generator().manual_seed(1))
    config = IncrementConfig(recipe="lwm", epochs=4, batch_size=8, gamma=3, learning_rate=0.1)
    photos, pace = photo_set("1", count=4, first_label=6, seed=1), Pace(8, prefetch=1, recompute=False)
    with importlib.import_module("variants").applied(variant):
        recipe = RECIPES["lwm"].adjusted(config)
        train_increment(student, teacher, photos, config, recipe, "sigmoid", pace, ignore_progress)
    assert not student.training and not any(module.training for module in student.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    return torch.cat([tensor.flatten().double() for tensor in student.state_dict().values()])


@pytest.mark.slow
def test_each_variant_changes_the_training_and_the_default_does_not() -> None:
    variants = importlib.import_module("variants")
    package = _trained(variants.Variant())
    assert torch.equal(package, _trained(variants.Variant()))
    with pytest.MonkeyPatch.context() as patch:  # so that functions are replaced even by default
        patch.setattr(variants.Variant, "__eq__", lambda self, other: False)
        assert torch.equal(package, _trained(variants.Variant()))
    changes: list[dict[str, Any]] = [
        {"schedule": "cosine"}, {"weight_decay": 0.01}, {"batch_norm": "frozen"}, {"batch_norm": "trained"},
        {"warm_up": 1}, {"distance": "l2"}, {"block": 8}, {"compared": "teacher"}, {"compared": "three"},
    ]  # fmt: skip
    found = [package, *(_trained(variants.Variant(**change)) for change in changes)]
    for i, one in enumerate(found):
        assert one.isfinite().all()
        for other in found[:i]:
            assert not torch.equal(one, other), changes[i - 1]


def test_autograd_gives_the_same_maps_for_the_last_block() -> None:
    variants = importlib.import_module("variants")
    last = len(load_network(open_bundle(WITHOUT_LEVELS)).blocks()) - 1
    assert torch.allclose(_trained(variants.Variant(block=last)), _trained(variants.Variant()), atol=1e-5)


def test_a_method_is_split_into_settings_and_a_variant() -> None:
    methods = importlib.import_module("methods")
    config, variant = methods.recipe_of("lwm:gamma=0.5,schedule=cosine,batch_size=16", epochs=3)
    assert (config.recipe, config.gamma, config.batch_size, config.epochs) == ("lwm", 0.5, 16, 3)
    assert variant.schedule == "cosine" and methods.recipe_of("lwm-l2")[1].distance == "l2"
    with pytest.raises(ConfigError, match="schedule"):
        methods.recipe_of("lwm:schedule=steps")


def test_combinations_add_the_next_best_change_and_keep_it_if_accuracy_rises() -> None:
    trials = importlib.import_module("trials")
    figures = {
        "": 0.40,
        "epochs=20": 0.44,
        "epochs=5": 0.43,
        "beta=2": 0.42,
        "momentum=0": 0.41,
        "beta=0.5": 0.3,
    }
    runs: list[dict[str, Any]] = []

    def run(change: str, accuracy: float) -> None:
        step = {"all": accuracy, "base": accuracy, "newest": accuracy}
        runs.append(
            {"recipe": "lwf-mc", "trial": change, "seed": 7, "steps": [step], "failed": None, "seconds": 9}
        )

    for change, accuracy in figures.items():
        run(change, accuracy)
    tried = []
    for change in trials.combinations(runs, "lwf-mc", 2):
        tried.append(change)
        run(change, 0.43)  # less than with the best change alone
    assert tried == ["epochs=20,beta=2", "epochs=20,momentum=0"]
    assert trials.ranked(runs, "lwf-mc")[0] == "epochs=20"
    best = "lwf-mc:head_learning_rate=0.1,learning_rate=0.01,epochs=20"
    assert trials.method_of("lwf-mc", "epochs=20") == best
    assert len({len(trials._grid_of(recipe)) for recipe in trials.COMPARED}) == 1


def test_joint_training_finds_all_photos_beside_a_relative_results_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    split = importlib.import_module("splits").Split(data, Path("work"), 7, 2, 2, 4, 5)
    assert len(list(split.all_train().glob("*/*"))) == 2 * 12 + 2 * 5
