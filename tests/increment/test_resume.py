"""Interrupted training continues from its checkpoint; with the same plan, it ends with the same model."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from lwm_edge import IncrementConfig, add_classes, audit, inspection, plan_increment, storage
from lwm_edge.errors import ConfigError, GateError, HomeError, LwmEdgeError, ResourceError, StoppedError
from lwm_edge.home.home import Home, open_home
from lwm_edge.home.ownership import CHECKPOINT_HEADER
from lwm_edge.increment import job, new_photos, plan, rehearsal, task, trained
from lwm_edge.increment import process as process_module
from lwm_edge.increment.learn import learn_classes
from lwm_edge.increment.reports import PlanReport
from lwm_edge.increment.resume import SavedTraining, read_header
from lwm_edge.increment.task import set_up
from lwm_edge.increment.timing import Timer
from lwm_edge.learning import training
from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import TrainingState
from lwm_edge.model.network import Network
from lwm_edge.records import Progress, ignore_progress
from tests.support.folders import PhotoMaker, state_of
from tests.support.hostile import refusing_to_read
from tests.support.samples import QUICK

# A GPU's rounding differs from run to run.
THREE_EPOCHS = QUICK.model_copy(update={"epochs": 3, "batch_size": 4, "device": "cpu"})


def _stop_after(home: Home, photos: Path, steps: int, config: IncrementConfig = THREE_EPOCHS) -> None:
    seen: list[Progress] = []

    def is_enough() -> bool:
        return seen[-1].phase == "train" and seen[-1].done == steps

    with home.lock(), pytest.raises(StoppedError, match=f"step {steps} of training; the model is unchanged"):
        learn_classes(home, photos, config, seen.append, is_enough)


@pytest.mark.usefixtures("every_core")
@pytest.mark.parametrize(
    ("steps", "recipe"),
    [(1, "lwm"), (3, "lwm-lda"), (8, "lwm")],  # in the first epoch, at its end, in the last one
)
def test_a_resumed_increment_gives_the_same_model_bit_for_bit(
    home: Home, tmp_path: Path, make_photos: PhotoMaker, steps: int, recipe: str
) -> None:
    photos, config = make_photos("Bag", "Shirt"), THREE_EPOCHS.model_copy(update={"recipe": recipe})
    untouched = shutil.copytree(home.path, tmp_path / "other", symlinks=True)
    _stop_after(home, photos, steps, config)
    seen: list[Progress] = []
    resumed = add_classes(home, photos, config, on_progress=seen.append, isolate=False)
    whole = add_classes(untouched, photos, config, isolate=False)
    assert next(p.done for p in seen if p.phase == "train") == steps + 1
    assert resumed.model_digest == whole.model_digest
    assert resumed.training is not None and whole.training is not None
    assert resumed.training.classification_loss == whole.training.classification_loss
    assert resumed.plan.micro_batch_size == whole.plan.micro_batch_size


@pytest.mark.usefixtures("every_core")
def test_kernels_with_their_channels_last_are_saved_and_resumed(
    home: Home, tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_FEWEST_BATCHES_TO_KEEP_MEMORY", 1)
    photos = make_photos("Bag", "Shirt")
    untouched = shutil.copytree(home.path, tmp_path / "other", symlinks=True)
    _stop_after(home, photos, 3)
    resumed = add_classes(home, photos, THREE_EPOCHS, isolate=False)
    whole = add_classes(untouched, photos, THREE_EPOCHS, isolate=False)
    assert resumed.plan.keeps_freed_memory and whole.plan.keeps_freed_memory
    assert resumed.model_digest == whole.model_digest


def test_the_checkpoint_has_a_constant_length_and_is_removed_by_the_commit(
    home: Home, make_photos: PhotoMaker
) -> None:
    before, photos = state_of(home.path), make_photos("Bag", "Shirt")
    _stop_after(home, photos, 1)
    length = home.training.stat().st_size
    state = state_of(home.path)
    assert state.pop(str(home.training)) and state == before
    _stop_after(home, photos, 3)
    assert home.training.stat().st_size == length
    add_classes(home, photos, THREE_EPOCHS, isolate=False)
    assert not home.training.exists() and audit(home).passed


def test_other_photos_or_settings_are_refused(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt")
    _stop_after(home, photos, 2)
    with pytest.raises(ConfigError, match=r"step 2.*--fresh"):
        add_classes(home, photos, THREE_EPOCHS.model_copy(update={"gamma": 2.0}), isolate=False)
    next((photos / "Bag").iterdir()).unlink()
    with pytest.raises(ConfigError, match="other photos"):
        add_classes(home, photos, THREE_EPOCHS, isolate=False)
    with pytest.raises(ConfigError, match=r"step 2.*--fresh") as refused:  # recipe lwm would not be instant
        add_classes(home, photos, IncrementConfig(instant=True))
    assert refused.value.problems == ("instant is True now, and was False before",)
    assert home.training.exists()
    fresh = THREE_EPOCHS.model_copy(update={"fresh": True})
    seen: list[Progress] = []
    add_classes(home, photos, fresh, on_progress=seen.append, isolate=False)
    assert next(p.done for p in seen if p.phase == "train") == 1


@pytest.mark.parametrize("rate", [None, 0.05])
def test_training_that_began_with_the_recipes_older_rates_is_not_continued(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, rate: float | None
) -> None:
    """The head's rate was once 0.01, or the backbone's if that was set."""
    photos, config = make_photos("Bag", "Shirt"), THREE_EPOCHS.model_copy(update={"learning_rate": rate})
    with monkeypatch.context() as patch:
        older = RECIPES["lwm"]._replace(learning_rate=0.01, head_learning_rate=rate or 0.01)
        patch.setitem(RECIPES, "lwm", older)
        _stop_after(home, photos, 1, config)
    with pytest.raises(ConfigError, match=r"step 1.*--fresh") as refused:
        add_classes(home, photos, config, isolate=False)
    assert "begun by another version of lwm-edge" in refused.value.problems[0]


def test_a_plan_without_room_for_reading_photos_ends_where_they_no_longer_stay_in_memory(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag", "Shirt")
    monkeypatch.setattr(task, "decoding_bytes", lambda here: 100 * 2**20)
    _stop_after(home, photos, 2)

    def resumed(photos: Path) -> PlanReport:
        with home.lock():
            return set_up(home, photos, THREE_EPOCHS, ignore_progress, Timer(time.monotonic())).plan

    first = resumed(photos)
    header = read_header(home.training)
    assert header and first == header.plan and first.keeps_all_photos
    monkeypatch.setattr(new_photos, "SHARE_FOR_CHECKED_PHOTOS", 0.0)  # as with a tight --max-memory
    second = resumed(photos)
    assert not second.keeps_all_photos
    assert second.predicted_peak_rss_bytes > first.predicted_peak_rss_bytes + 50 * 2**20


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag")
    _stop_after(home, photos, 1)
    monkeypatch.setattr(inspection, "read_regular", refusing_to_read(home.training))
    for change in (plan_increment, add_classes):
        with pytest.raises(HomeError, match=r"cannot read .*training.safetensors: Permission denied"):
            change(home, photos, THREE_EPOCHS, isolate=False)  # type: ignore[operator]
    monkeypatch.undo()
    assert plan_increment(home, photos, THREE_EPOCHS, isolate=False).recipe == "lwm"


def test_a_smaller_micro_batch_makes_another_plan(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt")
    _stop_after(home, photos, 2)
    seen: list[Progress] = []
    smaller = THREE_EPOCHS.model_copy(update={"micro_batch_size": 2})
    report = add_classes(home, photos, smaller, on_progress=seen.append, isolate=False)
    assert report.plan.micro_batch_size == 2 and any(
        "may differ by rounding" in line for line in report.warnings
    )
    assert next(p.done for p in seen if p.phase == "train") == 3


@pytest.mark.usefixtures("every_core")
def test_interrupted_training_continues_in_its_own_precision(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag", "Shirt")
    monkeypatch.setattr(rehearsal, "usable_precisions", lambda setting, device: ("bfloat16",))
    _stop_after(home, photos, 3)
    monkeypatch.setattr(rehearsal, "usable_precisions", lambda setting, device: ("float32",))
    goes_on = THREE_EPOCHS.model_copy(update={"micro_batch_size": 2})  # needs another plan than the saved one
    assert plan_increment(home, photos, goes_on).precision == "bfloat16"
    in_other_precision = goes_on.model_copy(update={"precision": "float32"})
    with pytest.raises(ConfigError, match=r"other photos or settings.*--fresh"):
        add_classes(home, photos, in_other_precision, isolate=False)
    report = add_classes(home, photos, goes_on, isolate=False)
    assert report.plan.precision == "bfloat16" and report.plan.micro_batch_size == 2


@pytest.mark.usefixtures("every_core")
def test_kept_outputs_of_frozen_blocks_are_the_same_when_resumed(
    home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Bag", "Shirt")
    config = THREE_EPOCHS.model_copy(update={"augment": False, "frozen_blocks": 4})
    untouched = shutil.copytree(home.path, tmp_path / "other", symlinks=True)
    _stop_after(home, photos, 3, config)
    resumed = add_classes(home, photos, config, isolate=False)
    whole = add_classes(untouched, photos, config, isolate=False)
    assert resumed.plan.frozen_cache_bytes > 0 and resumed.model_digest == whole.model_digest


def test_training_without_room_to_save_starts_over(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "saving_bytes", lambda job, strategy: 2**60)
    with home.lock(), pytest.raises(StoppedError, match=r"starts over$"):
        learn_classes(home, make_photos("Bag"), THREE_EPOCHS, ignore_progress, lambda: True)
    assert not home.training.exists()


@pytest.mark.slow
def test_a_fresh_start_that_trains_nothing_keeps_the_checkpoint(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt")
    _stop_after(home, photos, 2)
    fresh = THREE_EPOCHS.model_copy(update={"fresh": True})
    plan_increment(home, photos, fresh)
    with pytest.raises(ResourceError):
        add_classes(home, photos, fresh.model_copy(update={"max_memory": 2**20}), isolate=False)
    assert home.training.exists()


def test_training_that_diverged_is_not_continued(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt")
    wild = THREE_EPOCHS.model_copy(update={"learning_rate": 1e6, "max_gradient_norm": 1e30})
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, photos, wild, ignore_progress, lambda: True)
    with pytest.raises(GateError):
        add_classes(home, photos, wild, isolate=False)
    assert not home.training.exists()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not say what is mapped")
def test_continued_training_keeps_nothing_of_the_checkpoint_mapped(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag", "Shirt")
    _stop_after(home, photos, 2)
    read = SavedTraining.state
    states: list[weakref.ref[torch.Tensor]] = []
    mapped: list[bool] = []

    def remembered(saved: SavedTraining) -> TrainingState | None:
        state = read(saved)
        assert state is not None
        states.extend(weakref.ref(tensor) for tensor in state.tensors.values())
        return state

    def look(progress: Progress) -> None:
        if progress.phase == "train":
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
            mapped.append(str(home.training) in maps or any(state() is not None for state in states))

    monkeypatch.setattr(SavedTraining, "state", remembered)
    add_classes(home, photos, THREE_EPOCHS, on_progress=look, isolate=False)
    assert states and mapped == [False] * 7


@pytest.mark.parametrize("step", [1, 5, 9])  # the first, one in the middle, the last
@pytest.mark.parametrize("recipe", ["lwm", "lwm-lda"])
def test_an_infinite_gradient_ends_the_training_where_it_happens(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, step: int, recipe: str
) -> None:
    accumulate = accumulate_gradients

    def with_an_infinite_one(student: Network, teacher: Network, batch: Batch, *how: Any) -> Any:
        losses = accumulate(student, teacher, batch, *how)
        if batch.step + 1 == step:
            gradient = next(p.grad for p in student.backbone.parameters() if p.grad is not None)
            gradient.view(-1)[0] = torch.inf
        return losses

    monkeypatch.setattr(training, "accumulate_gradients", with_an_infinite_one)
    monkeypatch.setattr(trained, "SECONDS_BETWEEN_SAVES", 0.0)
    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    config = THREE_EPOCHS.model_copy(update={"recipe": recipe})
    with pytest.raises(
        GateError, match=rf"became inf at step {step}; the model is unchanged.*--learning-rate"
    ):
        add_classes(home, photos, config, isolate=False)
    assert state_of(home.path) == before  # so no checkpoint is left either


@pytest.mark.parametrize("recipe", ["lwm", "lwm-lda"])
def test_outputs_that_the_last_update_made_infinite_refuse_the_model(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(trained, "SECONDS_BETWEEN_SAVES", 0.0)
    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    config = THREE_EPOCHS.model_copy(
        update={"recipe": recipe, "epochs": 1, "batch_size": 64, "learning_rate": 1e30}
    )
    with pytest.raises(GateError, match=r"no longer finite after training; .*--learning-rate below 1e\+30"):
        add_classes(home, photos, config, isolate=False)
    assert state_of(home.path) == before


def test_an_incomplete_save_is_cleared(home: Home) -> None:
    incomplete = storage.staged_path(home.training)
    incomplete.write_bytes(b"incomplete")
    with home.lock():
        pass
    assert not incomplete.exists() and audit(home).passed


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100_000])
def test_another_file_in_the_checkpoints_place_is_left_alone_and_named(
    home: Home, make_photos: PhotoMaker, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.training.write_bytes(content)
    monkeypatch.setattr(trained, "SECONDS_BETWEEN_SAVES", 0.0)
    report = add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    assert home.training.read_bytes() == content
    assert not report.plan.checkpoints
    assert [line for line in report.warnings if str(home.training) in line and "left alone" in line]


def test_a_checkpoint_whose_content_is_damaged_is_forgotten(home: Home, make_photos: PhotoMaker) -> None:
    header = b'{"parent_digest": "0", "job": 7, "step": "third"}'.ljust(4096)
    home.training.write_bytes(
        save({CHECKPOINT_HEADER: torch.frombuffer(bytearray(header), dtype=torch.uint8)})
    )
    add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    assert not home.training.exists()


@pytest.mark.slow
def test_a_checkpoint_of_a_model_that_changed_since_is_forgotten(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag")
    _stop_after(home, photos, 1)
    kept = home.training.read_bytes()
    fresh = THREE_EPOCHS.model_copy(update={"fresh": True})
    add_classes(home, make_photos("Shirt", folder="others"), fresh, isolate=False)
    home.training.write_bytes(kept)
    report = add_classes(home, photos, THREE_EPOCHS, isolate=False)
    assert report.class_names[-2:] == ("Shirt", "Bag")


@pytest.mark.slow
def test_interrupted_twice_the_worker_is_gone_before_the_home_is_cleared(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive_at_clearing: list[bool] = []
    started: list[subprocess.Popen[bytes]] = []
    lines, clear = process_module._lines, Home._remove_stale

    def interrupted(process: subprocess.Popen[bytes]) -> Iterator[Any]:
        if process in started:
            raise KeyboardInterrupt
        started.append(process)
        yield from lines(process)

    def interrupt(progress: Progress) -> None:
        if progress.phase == "train":
            raise KeyboardInterrupt

    def watched(home: Home) -> None:
        alive_at_clearing.extend(process.poll() is None for process in started)
        clear(home)

    monkeypatch.setattr(process_module, "_lines", interrupted)
    monkeypatch.setattr(Home, "_remove_stale", watched)
    before, endless = home.current(), QUICK.model_copy(update={"epochs": 10000})
    with pytest.raises(KeyboardInterrupt):
        add_classes(home, make_photos("Bag"), endless, on_progress=interrupt)
    assert alive_at_clearing == [False] and home.current() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step(home: Home, make_photos: PhotoMaker, number: signal.Signals) -> None:
    photos, before = make_photos("Bag", "Shirt"), home.current()
    program = (
        "import signal, sys, lwm_edge\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it\n"
        "def show(progress): print(progress.phase, flush=True)\n"
        "config = lwm_edge.IncrementConfig(recipe='lwm', epochs=10000, device='cpu')\n"
        "lwm_edge.add_classes(sys.argv[1], sys.argv[2], config, on_progress=show)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.path), str(photos)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if line == "train\n")
        process.send_signal(number)
        errors = process.stderr.read()
    assert home.current() == before
    if number == signal.SIGINT:
        assert "StoppedError: stopped after step" in errors
    for _ in range(100):  # SIGTERM kills the caller first; the worker then finishes its step and saves
        try:
            with home.lock():
                break
        except LwmEdgeError:
            time.sleep(0.1)
    assert home.training.exists() and open_home(home.path).open_bundle()
