"""The plan stays within the limit, names a limit that would be enough, and does not change what is learnt."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import torch
from PIL import Image
from torch import nn

from lwm_edge import IncrementConfig, Progress, add_classes, plan_increment
from lwm_edge.base.choose_levels import find_levels
from lwm_edge.errors import ConfigError, ResourceError
from lwm_edge.home.home import Home
from lwm_edge.increment import job as job_module
from lwm_edge.increment import plan as plan_module
from lwm_edge.increment import prediction
from lwm_edge.increment.job import Job, Loaded, Strategy, candidates
from lwm_edge.increment.plan import check_disk, make_plan, memory_limit
from lwm_edge.increment.rehearsal import saved_activation_bytes, try_step
from lwm_edge.increment.task import set_up
from lwm_edge.increment.timing import Timer
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.gpu_memory import no_room_for_one_image
from lwm_edge.memory import rss_bytes
from lwm_edge.model import precision
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.photos import photo_set
from lwm_edge.records import ignore_progress
from tests.support.folders import PhotoMaker, state_of
from tests.support.networks import PREPROCESSING, fresh_network, teacher_and_student
from tests.support.samples import PLAN, QUICK

MIB = 2**20
SHORT = IncrementConfig(epochs=1)  # too short to be worth looking for the fastest way


class _Machine:
    """Stands in for the machine's memory and clock: the process takes more memory during a step."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        kept: int = 10,
        recomputed: int = 3,
        image_seconds: Mapping[str, float] = {"float32": 0.001, "bfloat16": 0.001},
    ) -> None:
        self.image_seconds, self.tried, self.now = image_seconds, set[str](), 0.0
        monkeypatch.setattr(prediction, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.peak, self.cost = 100 * MIB, {False: kept * MIB, True: recomputed * MIB}
        monkeypatch.setattr(job_module, "rss_bytes", lambda: 100 * MIB)
        monkeypatch.setattr(prediction, "reset_peak_rss", lambda: True)
        monkeypatch.setattr(prediction, "peak_rss_bytes", lambda: self.peak)
        self.job = Job(
            step=self._step,
            photos=100,
            held_back=0,
            photo_bytes=1000,
            held_bytes=0,
            observed_bytes=100 * 8 * 8,
            features=8,
            trained_bytes=MIB,
            activation_bytes=self.cost[False],
            frozen_bytes=0,
            decoding_bytes=0,
            bundle_bytes=2 * MIB,
            generation_bytes=3 * MIB,
        )

    def _step(self, images: int, strategy: Strategy) -> None:
        self.tried.add(strategy.precision)
        self.now += 2 * images * self.image_seconds[strategy.precision]
        factor = 1.5 if strategy.keeps_freed_memory else 1.0
        self.peak = int(factor * (120 * MIB + images * self.cost[strategy.recompute]))


@pytest.mark.parametrize(
    ("limit", "micro_batch_size", "recompute"),
    [(1000, 32, False), (310, 16, False), (150, 2, False), (140, 1, False), (136, 1, True), (131, 1, True)],
)
def test_the_largest_micro_batch_that_fits_is_chosen(
    monkeypatch: pytest.MonkeyPatch, limit: int, micro_batch_size: int, recompute: bool
) -> None:
    plan = make_plan(_Machine(monkeypatch).job, SHORT, limit * MIB, "as set")
    assert (plan.micro_batch_size, plan.recompute) == (micro_batch_size, recompute)
    assert plan.predicted_peak_rss_bytes <= limit * MIB
    assert plan.smallest_limit_bytes <= limit * MIB
    make_plan(_Machine(monkeypatch).job, SHORT, plan.smallest_limit_bytes, "as set")  # this limit is enough
    assert plan.micro_batches_per_update * plan.micro_batch_size == 32
    assert plan.disk_bytes == 10 * MIB


def test_nothing_is_read_ahead_where_the_limit_is_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(_Machine(monkeypatch).job, photo_bytes=MIB)  # a batch of 32 MiB
    roomy = make_plan(job, SHORT, 300 * MIB, "as set")
    assert roomy.prefetch == 1
    tight = make_plan(job, SHORT, 172 * MIB, "as set")  # 130 for a step, 32 for a batch, 5% margin
    assert (tight.prefetch, tight.micro_batch_size, tight.recompute) == (0, 1, False)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_too_small_a_limit_for_a_gpus_libraries_may_do_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    job = replace(_Machine(monkeypatch).job, on_gpu=on_gpu)
    with pytest.raises(ResourceError, match="120 MiB of memory is too little") as caught:
        make_plan(job, SHORT, 120 * MIB, "as set")
    assert ("--device cpu" in str(caught.value)) == on_gpu


def test_a_step_that_the_gpu_has_no_room_for_is_planned_with_fewer_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = _Machine(monkeypatch)

    def step(images: int, strategy: Strategy) -> None:
        if images > 8:
            raise no_room_for_one_image()
        machine._step(images, strategy)

    plan = make_plan(replace(machine.job, step=step), IncrementConfig(epochs=100), 1000 * MIB, "as set")
    assert plan.keeps_freed_memory and plan.micro_batch_size == 8


def test_the_limit_in_the_error_is_for_the_micro_batch_in_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, job = IncrementConfig(micro_batch_size=16), _Machine(monkeypatch).job
    with pytest.raises(ResourceError) as caught:
        make_plan(job, asked, 160 * MIB, "as set")
    named = int(caught.value.message.split("--max-memory ")[1].split("MiB")[0])
    assert make_plan(job, asked, named * MIB, "as set").micro_batch_size == 16


@pytest.mark.parametrize(
    ("limit", "epochs", "micro_batch_size"),
    [(1200, 10, 32), (1200, 6, None), (800, 10, 16), (300, 10, 4), (150, 10, None)],
)
def test_freed_memory_is_kept_where_there_is_room_and_enough_to_do(
    monkeypatch: pytest.MonkeyPatch, limit: int, epochs: int, micro_batch_size: int | None
) -> None:
    """A `micro_batch_size` of None means that freed memory is not kept."""
    machine = _Machine(monkeypatch)
    plan = make_plan(machine.job, IncrementConfig(epochs=epochs), limit * MIB, "as set")
    assert plan.keeps_freed_memory is (micro_batch_size is not None)
    if micro_batch_size:
        assert plan.micro_batch_size == micro_batch_size and not plan.recompute
        assert limit * MIB >= plan.predicted_peak_rss_bytes >= 1.5 * (120 + micro_batch_size * 10) * MIB


@pytest.mark.parametrize("limit", [1, 100, 120])
def test_the_error_about_a_small_limit_names_one_that_is_enough(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    machine = _Machine(monkeypatch)
    with pytest.raises(ResourceError, match=r"--max-memory \d+MiB") as caught:
        make_plan(machine.job, IncrementConfig(), limit * MIB, "as set")
    named = int(caught.value.message.split("--max-memory ")[1].split("MiB")[0])
    assert make_plan(machine.job, IncrementConfig(), named * MIB, "as set").micro_batch_size == 1


def test_no_step_is_tried_where_neither_limit_nor_device_has_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, tried = _Machine(monkeypatch), []
    monkeypatch.setattr(plan_module, "available_memory_bytes", lambda: 10 * MIB)
    job = replace(machine.job, step=lambda images, strategy: tried.append(images))
    with pytest.raises(ResourceError, match=r"--max-memory \d+MiB or more"):
        make_plan(job, IncrementConfig(), 50 * MIB, "as set")
    assert not tried


def test_planning_tries_no_more_images_than_the_limit_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, tried = _Machine(monkeypatch), []

    def step(images: int, strategy: Strategy) -> None:
        tried.append(images)
        machine.job.step(images, strategy)

    job = Job(**{**vars(machine.job), "step": step})
    assert make_plan(job, SHORT, 140 * MIB, "as set").micro_batch_size == 1
    assert set(tried) == {1}
    make_plan(job, SHORT, 1000 * MIB, "as set")
    assert set(tried) == {1, 4}


def test_a_step_that_would_break_the_limit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _Machine(monkeypatch, kept=1000)
    tried: list[bool] = []
    job = Job(**{**vars(machine.job), "step": lambda images, strategy: tried.append(strategy.recompute)})
    machine.peak = 130 * MIB
    assert make_plan(job, IncrementConfig(), 200 * MIB, "as set").recompute
    assert set(tried) == {True}


def test_a_micro_batch_in_the_settings_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = IncrementConfig(micro_batch_size=8)
    assert make_plan(_Machine(monkeypatch).job, asked, 1000 * MIB, "as set").micro_batch_size == 8


def test_the_limit_leaves_half_of_what_is_free_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "rss_bytes", lambda: 100)
    monkeypatch.setattr(plan_module, "available_memory_bytes", lambda: 1000)
    assert memory_limit(IncrementConfig())[0] == 600
    limit, source = memory_limit(IncrementConfig(max_memory="600MiB"))
    assert (limit, source) == (600 * MIB, "as set")
    assert get_type_hints(IncrementConfig)["max_memory"] == int | str | None  # for type checkers


def test_training_is_saved_where_the_limit_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _Machine(monkeypatch)
    # Saving takes 152.25 MiB: 100 MiB when idle and 5 times the trained bytes, plus 5%.
    job = Job(**{**vars(machine.job), "trained_bytes": 9 * MIB})
    assert not make_plan(job, IncrementConfig(), 151 * MIB, "as set").checkpoints
    roomy = make_plan(job, IncrementConfig(), 153 * MIB, "as set")
    assert roomy.checkpoints and 152 * MIB < roomy.predicted_peak_rss_bytes <= 153 * MIB


def test_a_save_of_kernels_with_their_channels_last_needs_room_for_more_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = replace(_Machine(monkeypatch).job, trained_bytes=100 * MIB, bundle_bytes=50 * MIB)
    config = IncrementConfig(epochs=10, micro_batch_size=4)
    roomy = make_plan(job, config, 900 * MIB, "as set")
    assert roomy.keeps_freed_memory and roomy.checkpoints
    assert 892 * MIB < roomy.predicted_peak_rss_bytes <= 893 * MIB  # 100 at rest, 700, 50 and 5% margin
    assert not make_plan(job, config, 890 * MIB, "as set").checkpoints


def test_a_full_disk_is_seen_before_training(tmp_path: Path) -> None:
    check_disk(tmp_path, PLAN)
    with pytest.raises(ResourceError, match=r"bytes free.*nothing was trained"):
        check_disk(tmp_path, PLAN.model_copy(update={"disk_bytes": 2**62}))


def test_the_work_after_the_photos_counts_if_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan counts solving the head, and loading the new model once ONNX Runtime has freed the old one."""
    machine = _Machine(monkeypatch)
    machine.cost = {False: MIB // 4, True: 0}
    without = replace(machine.job, trained_bytes=0, activation_bytes=0, images_at_once=4)
    loaded = replace(without, loaded=Loaded(held_bytes=20 * MIB, peak_bytes=90 * MIB))
    small, large = (make_plan(job, SHORT, 1000 * MIB, "as set") for job in (without, loaded))
    assert small.micro_batch_size == large.micro_batch_size == 4
    assert small.pixel_cache_bytes == large.pixel_cache_bytes
    exporting = 100 + 2 + 90 - 20 + 10  # idle, bundle, loading, less what the old model held, libraries
    peak = large.predicted_peak_rss_bytes - large.pixel_cache_bytes
    assert peak == pytest.approx(1.05 * exporting * MIB, rel=0.01)
    with pytest.raises(ResourceError, match="--max-memory"):
        make_plan(loaded, SHORT, 150 * MIB, "as set")


def test_solving_the_head_for_many_photos_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solving takes a few copies of all photos' features, and runs before library pages are given back."""
    machine = _Machine(monkeypatch)
    machine.cost = {False: MIB // 4, True: 0}
    loaded = Loaded(held_bytes=20 * MIB, peak_bytes=10 * MIB)
    job = replace(machine.job, trained_bytes=0, activation_bytes=0, features=512, loaded=loaded, held_back=0)
    few, many = (make_plan(replace(job, photos=n), SHORT, 1000 * MIB, "as set") for n in (5000, 7560))
    peaks = [plan.predicted_peak_rss_bytes - plan.pixel_cache_bytes for plan in (few, many)]
    solving = 100 + 3 * 2 + 4 * 5000 * 512 * 8 / MIB - 20 + 20  # two MiB for each matrix of 512 x 512 numbers
    assert peaks[0] == pytest.approx(1.05 * solving * MIB, rel=0.01)
    assert peaks[1] - peaks[0] == pytest.approx(1.05 * 4 * 10 * MIB, rel=0.01)


def test_importing_onnx_runtime_does_not_count_as_memory_of_the_model() -> None:
    """Freeing the model does not free what the import took, so memory is measured after the import."""
    code = (
        "import sys; from lwm_edge.increment import instant; "
        "instant.Backbone = lambda parent: None; "
        "instant.rss_bytes = lambda: print('onnxruntime' in sys.modules) or 0; "
        "instant._load(None)"
    )
    seen = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert seen.split() == ["True", "True"]


def test_the_time_runs_from_the_commands_start_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(_Machine(monkeypatch).job, trained_bytes=0, activation_bytes=0)
    waited = replace(job, elapsed_seconds=7.0, ending_seconds=2.0)
    quick, slow = (make_plan(j, SHORT, 1000 * MIB, "as set").predicted_seconds for j in (job, waited))
    assert slow - quick == pytest.approx(9.0, abs=0.3)


@pytest.mark.parametrize("recipe", ["lwm", "lwm-lda"])
def test_a_tried_step_changes_nothing(recipe: str) -> None:
    teacher, student = teacher_and_student()
    before = [tensor.clone() for tensor in [*student.parameters(), *teacher.parameters()]]
    try_step(student, teacher, 3, RECIPES[recipe], "sigmoid")  # type: ignore[index]
    after = [*student.parameters(), *teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


def test_activations_are_those_of_the_layers_that_train() -> None:
    teacher, student = teacher_and_student()
    whole = saved_activation_bytes(student.requires_grad_(True))
    assert 100_000 < whole < 5_000_000
    teacher.freeze(len(teacher.blocks()) - 3)
    part = teacher.student(trains=True)
    for block in part.blocks()[part.frozen_blocks :]:
        block.requires_grad_(True)
    assert 0 < saved_activation_bytes(part) < whole / 2


def test_activations_are_counted_on_an_image_that_the_grid_fits() -> None:
    network = fresh_network("shufflenet_v2_x0_5")
    network.preprocessing = network.preprocessing.model_copy(update={"image_size": 224, "resize_size": 224})
    levels = find_levels(network, 5)
    assert levels is not None
    network.read_levels(levels)
    assert saved_activation_bytes(network.requires_grad_(True)) > 1_000_000


def test_activations_are_counted_if_only_a_larger_image_fits_the_grid() -> None:
    blocks = [nn.Conv2d(3, 3, stride, stride) for stride in (8, 8, 2, 1, 1)]
    network = Network(nn.Sequential(*blocks), nn.Linear(3, 5), 2, PREPROCESSING)
    network.preprocessing = PREPROCESSING.model_copy(update={"image_size": 256, "resize_size": 256})
    levels = find_levels(network, 2, more_blocks=True)
    assert levels is not None and levels.blocks == (0, 1, 3)  # the last one's maps have a cell per 128 px
    network.read_levels(levels)
    assert saved_activation_bytes(network.requires_grad_(True)) > 4 * 3 * 256**2


@pytest.mark.slow
def test_a_dry_run_changes_nothing(home: Home, make_photos: PhotoMaker) -> None:
    before, photos = state_of(home.path), make_photos("Bag", "Shirt")
    plan = plan_increment(home, photos, QUICK)
    assert state_of(home.path) == before
    assert 100 * MIB < plan.predicted_peak_rss_bytes < plan.limit_bytes
    # Two plans may differ by 2%, and with the smallest limit photos may have to be read again.
    assert plan.smallest_limit_bytes <= 1.02 * plan.predicted_peak_rss_bytes + 100 * MIB
    with pytest.raises(ResourceError, match="nothing was trained"):
        plan_increment(home, photos, QUICK.model_copy(update={"max_memory": 50 * MIB}))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "steps"), [("lda", 3), ("lwm", 4)])
def test_planning_reports_each_step_that_it_tries(
    home: Home, make_photos: PhotoMaker, recipe: str, steps: int
) -> None:
    seen: list[Progress] = []
    config = QUICK.model_copy(update={"recipe": recipe})
    plan = plan_increment(home, make_photos("Shirt"), config, on_progress=seen.append, isolate=False)
    planning = [(progress.done, progress.total) for progress in seen if progress.phase == "plan"]
    assert planning[:steps] == [(done, steps) for done in range(steps)]
    assert plan.ending_seconds is not None and 0 <= plan.ending_seconds <= plan.predicted_seconds


def test_the_commit_is_announced_with_the_time_that_it_is_expected_to_take(
    home: Home, make_photos: PhotoMaker
) -> None:
    seen: list[Progress] = []
    photos, config = make_photos("Shirt"), IncrementConfig(recipe="lda")
    receipt = add_classes(home, photos, config, on_progress=seen.append, isolate=False)
    assert seen[-1].phase == "commit" and seen[-1].expected_seconds == receipt.plan.ending_seconds


def test_too_many_frozen_blocks_are_refused(home: Home, make_photos: PhotoMaker) -> None:
    with pytest.raises(ConfigError, match="this network has 12 blocks"):
        plan_increment(home, make_photos("Bag"), QUICK.model_copy(update={"frozen_blocks": 99}))


def test_frozen_blocks_stay_and_the_rest_learns(home: Home, make_photos: PhotoMaker) -> None:
    before = home.open_bundle().arrays()
    config = QUICK.model_copy(update={"frozen_blocks": 6})
    add_classes(home, make_photos("Bag"), config, isolate=False)
    after = home.open_bundle().arrays()
    changed = {name for name, array in after.items() if (array != before[name]).any()}
    network = load_network(home.open_bundle())
    frozen = {id(p) for block in network.blocks()[:6] for p in block.parameters()}
    names = {name: id(p) in frozen for name, p in network.backbone.named_parameters()}
    assert not any(f"backbone.{name}" in changed for name, is_frozen in names.items() if is_frozen)
    assert any(f"backbone.{name}" in changed for name, is_frozen in names.items() if not is_frozen)


def test_candidates_go_from_the_fastest_to_the_one_that_takes_the_least_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = list(candidates(_Machine(monkeypatch).job, IncrementConfig(batch_size=8)))
    sizes = [(c.micro_batch_size, c.prefetch) for c in listed]
    assert sizes[:2] == [(8, 1), (4, 1)] and all(c.strategy.keeps_freed_memory for c in listed[:2])
    assert sizes[2:7] == sizes[7:] == [(8, 1), (4, 1), (2, 1), (1, 1), (1, 0)]
    assert [c.strategy.recompute for c in listed] == [False] * 7 + [True] * 5


@pytest.mark.parametrize(
    ("seconds", "reduced_by", "chosen"),
    [(0.1, 0.5, "bfloat16"), (0.1, 0.9, "float32"), (0.01, 0.5, "float32")],
)
def test_a_less_exact_precision_must_be_clearly_faster_and_worth_a_trial(
    monkeypatch: pytest.MonkeyPatch, seconds: float, reduced_by: float, chosen: str
) -> None:
    machine = _Machine(monkeypatch, image_seconds={"float32": seconds, "bfloat16": reduced_by * seconds})
    job = replace(machine.job, precisions=("float32", "bfloat16"))
    plan = make_plan(job, IncrementConfig(), 1000 * MIB, "as set")
    assert plan.precision == plan.pace.precision == chosen
    assert ("bfloat16" in machine.tried) == (seconds == 0.1)
    machine.tried.clear()
    only = replace(job, precisions=("bfloat16",))
    assert make_plan(only, IncrementConfig(), 1000 * MIB, "as set").precision == "bfloat16"
    assert machine.tried == {"bfloat16"}


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("flags\t\t: fpu avx512f\nmodel name : bf16\n", False),
        (None, False),
    ],
)
def test_auto_tries_bfloat16_only_if_the_processor_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str | None, found: bool
) -> None:
    monkeypatch.setattr(precision, "_PROCESSOR", tmp_path / "cpuinfo")
    if listed:
        (tmp_path / "cpuinfo").write_text(listed)
    cpu = torch.device("cpu")
    assert precision.has_bfloat16(cpu) == found
    assert precision.usable_precisions("auto", cpu) == (("float32", "bfloat16") if found else ("float32",))
    assert precision.usable_precisions("bfloat16", cpu) == ("bfloat16",)


@pytest.mark.parametrize(("capability", "found"), [((7, 5), False), ((8, 0), True), ((8, 7), True)])
def test_a_gpu_that_emulates_bfloat16_counts_as_one_without_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], found: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_bfloat16(torch.device("cuda")) == found


@pytest.mark.parametrize("reduced", [False, True])
def test_kept_outputs_of_frozen_blocks_are_counted_and_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, reduced: bool
) -> None:
    job, config = replace(_Machine(monkeypatch).job, frozen_bytes=MIB), IncrementConfig(micro_batch_size=1)
    job = replace(job, precisions=("bfloat16",) if reduced else ("float32",))
    roomy = make_plan(job, config, 2000 * MIB, "as set")
    without = make_plan(replace(job, frozen_bytes=0), config, 2000 * MIB, "as set")
    assert roomy.frozen_cache_bytes == roomy.pace.frozen_cache_bytes == (50 if reduced else 100) * MIB
    assert without.frozen_cache_bytes == 0
    more = roomy.predicted_peak_rss_bytes - without.predicted_peak_rss_bytes
    assert more == roomy.frozen_cache_bytes
    tight = make_plan(job, config, 180 * MIB, "as set")
    assert 0 < tight.frozen_cache_bytes < 50 * MIB and tight.predicted_peak_rss_bytes <= 180 * MIB
    assert make_plan(job, SHORT, 2000 * MIB, "as set").frozen_cache_bytes == 0


def test_photos_that_are_already_in_memory_do_not_change_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _Machine(monkeypatch)
    plan = make_plan(machine.job, SHORT, 310 * MIB, "as set")
    monkeypatch.setattr(job_module, "rss_bytes", lambda: 105 * MIB)

    def step(images: int, strategy: Strategy) -> None:
        machine.job.step(images, strategy)
        machine.peak += 5 * MIB

    holding = replace(machine.job, step=step, held_bytes=5 * MIB)
    assert make_plan(holding, SHORT, 310 * MIB, "as set") == plan.model_copy(
        update={"predicted_seconds": make_plan(holding, SHORT, 310 * MIB, "as set").predicted_seconds}
    )


@pytest.mark.parametrize(("held", "decoding_counts"), [(100, False), (99, True)])
def test_reading_photos_counts_only_if_some_are_read_again(
    monkeypatch: pytest.MonkeyPatch, held: int, decoding_counts: bool
) -> None:
    """A photo of 12 megapixels takes far more memory while it is read than the prepared one in the cache."""
    job = replace(_Machine(monkeypatch).job, decoding_bytes=100 * MIB, held_bytes=held * 1000)
    without = make_plan(replace(job, decoding_bytes=0), SHORT, 2000 * MIB, "as set")
    plan = make_plan(job, SHORT, 2000 * MIB, "as set")
    more = plan.predicted_peak_rss_bytes - without.predicted_peak_rss_bytes
    assert (more == pytest.approx(105 * MIB)) is decoding_counts and (more == 0) is not decoding_counts
    assert plan.keeps_all_photos is not decoding_counts


def test_the_limit_that_is_named_has_room_for_reading_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the plan keeps in memory, with a smaller limit each photo must be read once, or again."""
    job = replace(_Machine(monkeypatch).job, held_bytes=100 * 1000)
    cheap, costly = (
        make_plan(replace(job, separate_decoding_bytes=bytes), SHORT, 2000 * MIB, "as set")
        for bytes in (0, 64 * MIB)
    )
    assert cheap.keeps_all_photos and costly.keeps_all_photos
    assert costly.predicted_peak_rss_bytes == cheap.predicted_peak_rss_bytes
    more = costly.smallest_limit_bytes - cheap.smallest_limit_bytes
    assert more == pytest.approx(1.02 * 1.05 * 64 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "how"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {"compress_level": 1})]
)
def test_the_limit_that_is_named_is_enough_for_photos_of_12_megapixels(
    home: Home, tmp_path: Path, format: str, how: dict[str, object]
) -> None:
    (tmp_path / "new" / "Bag").mkdir(parents=True)
    for turn in range(6):
        photo = Image.linear_gradient("L").convert("RGB").rotate(60 * turn).resize((4_000, 3_000))
        photo.save(tmp_path / "new" / "Bag" / str(turn), format, **how)
    photos = str(tmp_path / "new")
    command = [sys.executable, "-m", "lwm_edge", "add-classes", photos, "--home", str(home.path)]

    def plan(*options: str) -> str:
        done = subprocess.run([*command, "--dry-run", *options], capture_output=True, text=True, check=True)
        assert "Bag (6)" in done.stdout  # none was skipped
        return done.stdout

    told = plan()
    predicted, enough = (int(number) for number in re.findall(r"(\d+) MiB (?:predicted|would)", told))
    assert enough > predicted and "would be enough, including memory to read the photos" in told
    again = re.search(r"(\d+) MiB predicted", plan("--max-memory", f"{enough}MiB"))
    assert again and int(again[1]) == pytest.approx(predicted, rel=0.05)


def test_reading_photos_counts_if_the_limit_leaves_them_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """All photos are in memory when the plan is made, but they may not stay there."""
    job = replace(_Machine(monkeypatch).job, decoding_bytes=100 * MIB, photo_bytes=MIB, held_bytes=100 * MIB)
    plan = make_plan(job, SHORT, 500 * MIB, "as set")
    assert plan.pixel_cache_bytes < 100 * MIB
    assert plan.predicted_peak_rss_bytes > 1.05 * (120 + 100) * MIB


def test_photos_that_are_left_out_take_no_room_from_those_that_are_learnt(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag")
    shutil.copy(next((photos / "Bag").iterdir()), photos / "Bag" / "0-again.png")
    config = IncrementConfig(recipe="lda", device="cpu", max_memory=rss_bytes() + 2**30)
    task = set_up(home, photos, config, ignore_progress, Timer(time.monotonic()))
    assert task.photos.skipped and task.plan.keeps_all_photos

    def read_again(path: Path, *how: object) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(photo_set, "read_photo", read_again)
    for some in (task.photos.to_learn, task.photos.held_back):
        some.load(range(len(some.photos)))
