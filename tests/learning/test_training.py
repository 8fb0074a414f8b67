"""The training loop computes the losses of LwM, trains only the student, and repeats for equal seeds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm_edge.errors import GateError, ResourceError, StoppedError
from lwm_edge.learning import step, training
from lwm_edge.learning.attention import attention_map
from lwm_edge.learning.batches import Batch, Pace
from lwm_edge.learning.config import RECIPES, IncrementConfig, Recipe
from lwm_edge.learning.frozen import frozen_bytes
from lwm_edge.learning.reports import TrainingReport
from lwm_edge.learning.step import Losses, Outputs, accumulate_gradients, lwm_losses
from lwm_edge.learning.training import TrainingState, train_increment, trained_parameters
from lwm_edge.model.levels import Activations
from lwm_edge.model.network import Network
from lwm_edge.model.precision import computing_in
from lwm_edge.model.terms import Precision
from lwm_edge.photos.photo_set import PhotoSet
from lwm_edge.records import Progress, ignore_progress
from tests.support.networks import disturb, network_with_levels, teacher_and_student
from tests.support.samples import QUICK, batch_of, photo_set

PACE = Pace(micro_batch_size=16, prefetch=1, recompute=False)
TERMS = ("classification", "distillation", "attention_distillation")


def _losses(student: Network, teacher: Network, images: Tensor, labels: Tensor) -> Losses:
    outputs = student(images), teacher(images)
    return lwm_losses(student, teacher, *outputs, labels, beta=1, gamma=1, classification="sigmoid")


def _train(config: IncrementConfig = QUICK, new_classes: int = 2) -> tuple[Network, Network, TrainingReport]:
    teacher, student = teacher_and_student(new_classes)
    photos = photo_set("1", count=12, first_label=6, seed=config.seed)
    report = train_increment(
        student, teacher, photos, config, _recipe(config), "sigmoid", PACE, ignore_progress
    )
    return teacher, student, report


def _recipe(config: IncrementConfig) -> Recipe:
    assert config.recipe != "auto"
    return RECIPES[config.recipe].adjusted(config)


def _tensors(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_sends_gradient_to_the_backbone(term: str) -> None:
    teacher, student = teacher_and_student()
    disturb(student)
    loss = getattr(_losses(student, teacher, *batch_of(photo_set("1", first_label=6))), term)
    loss.backward()
    first_convolution = next(student.backbone.parameters())
    assert first_convolution.grad is not None and first_convolution.grad.abs().sum() > 0


def test_gamma_changes_the_gradients() -> None:
    teacher, student = teacher_and_student()
    disturb(student)
    losses = _losses(student, teacher, *batch_of(photo_set("1", first_label=6)))
    parameters = list(student.backbone.parameters())
    without = torch.autograd.grad(losses.total(beta=1, gamma=0), parameters, retain_graph=True)
    with_gamma = torch.autograd.grad(losses.total(beta=1, gamma=1), parameters)
    assert not all(torch.allclose(a, b) for a, b in zip(without, with_gamma, strict=True))


def test_an_images_loss_does_not_depend_on_its_batch_mates() -> None:
    teacher, student = teacher_and_student(dtype=torch.float64)
    disturb(student)
    images, labels = batch_of(photo_set("1", count=4, first_label=6))
    together = _losses(student, teacher, images, labels)
    alone = [_losses(student, teacher, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
    for term in TERMS:
        mean = torch.stack([getattr(losses, term) for losses in alone]).mean()
        torch.testing.assert_close(getattr(together, term), mean, rtol=1e-9, atol=0)


def test_identical_networks_have_no_attention_distance() -> None:
    teacher, student = teacher_and_student()
    losses = _losses(student, teacher, *batch_of(photo_set("1", first_label=6)))
    assert losses.attention_distillation is not None and losses.attention_distillation.item() < 1e-5


def test_the_teacher_is_byte_identical_afterwards() -> None:
    before = _tensors(teacher_and_student()[0])
    teacher, student, _ = _train()
    assert _equal(before, _tensors(teacher))
    assert not _equal(before, {name: tensor for name, tensor in _tensors(student).items() if name in before})


def test_batch_norm_statistics_do_not_change() -> None:
    teacher, student, _ = _train()
    assert _equal(dict(teacher.named_buffers()), dict(student.named_buffers()))


def test_one_new_class_at_a_time_is_learnt() -> None:
    teacher, student = teacher_and_student(new_classes=1)
    photos = photo_set("1", count=12, first_label=6)
    only_first = type(photos)([p for p in photos.photos if p.label == 6], photos.preprocessing, photos.cache)
    row = student.head.weight[6].clone()
    report = train_increment(
        student, teacher, only_first, QUICK, RECIPES["lwm"], "sigmoid", PACE, ignore_progress
    )
    assert report.classification_loss > 0.01
    assert not torch.equal(row, student.head.weight[6])


def test_rows_after_the_last_class_stay_zero() -> None:
    _, student, _ = _train()
    assert student.head.weight[8:].abs().sum() == 0 and student.head.bias[8:].abs().sum() == 0


@pytest.mark.usefixtures("every_core")
def test_equal_seeds_give_equal_tensors() -> None:
    assert _equal(_tensors(_train()[1]), _tensors(_train()[1]))


def test_another_seed_gives_different_tensors() -> None:
    other = QUICK.model_copy(update={"seed": 1})
    assert not _equal(_tensors(_train()[1]), _tensors(_train(other)[1]))


def test_gamma_changes_the_student() -> None:
    without = QUICK.model_copy(update={"gamma": 0.0})
    assert not _equal(_tensors(_train()[1]), _tensors(_train(without)[1]))


@pytest.mark.parametrize(
    ("recipe", "expected"), [("lwm", (True, True)), ("lwf-mc", (True, False)), ("finetune", (False, False))]
)
def test_a_recipe_turns_terms_off(recipe: str, expected: tuple[bool, bool]) -> None:
    _, _, report = _train(IncrementConfig.model_validate({**QUICK.model_dump(), "recipe": recipe}))
    assert (report.distillation_loss is not None, report.attention_distillation_loss is not None) == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_micro_batches_give_the_whole_batchs_update(
    micro_batch_size: int, dtype: torch.dtype, tolerance: float
) -> None:
    def updated(size: int) -> dict[str, Tensor]:
        teacher, student = teacher_and_student(dtype=dtype)
        config = QUICK.model_copy(update={"batch_size": 12})
        pace = replace(PACE, micro_batch_size=size)
        photos = photo_set("1", count=6, first_label=6)
        train_increment(student, teacher, photos, config, RECIPES["lwm"], "sigmoid", pace, ignore_progress)
        return _tensors(student)

    whole, in_parts = updated(12), updated(micro_batch_size)
    for name in whole:
        torch.testing.assert_close(in_parts[name], whole[name], rtol=tolerance, atol=tolerance)


def test_progress_counts_every_step() -> None:
    seen: list[Progress] = []
    teacher, student = teacher_and_student()
    photos = photo_set("1", count=12, first_label=6)
    report = train_increment(student, teacher, photos, QUICK, RECIPES["lwm"], "sigmoid", PACE, seen.append)
    assert [p.done for p in seen] == [1, 2] and {p.total for p in seen} == {2} and report.steps == 2


@pytest.mark.parametrize(
    ("rates", "advice"),
    [
        ({"learning_rate": 1e6}, r"with --learning-rate below 1e\+06$"),
        ({"head_learning_rate": 1e38}, r"with head_learning_rate in lwm-edge\.toml below 1e\+38$"),
        (
            {"learning_rate": 1e6, "head_learning_rate": 1e38},
            r"--learning-rate below 1e\+06 and head_learning_rate in lwm-edge\.toml below 1e\+38$",
        ),
    ],
)
def test_diverging_training_is_refused_and_the_rates_that_were_set_are_named(
    rates: dict[str, float], advice: str
) -> None:
    with pytest.raises(GateError, match=advice):
        _train(QUICK.model_copy(update={**rates, "max_gradient_norm": 1e30, "epochs": 3}))


def test_the_recipes_rates_are_named_if_training_diverges_and_none_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "all_finite", lambda tensors: False)
    with pytest.raises(
        GateError, match=r"--learning-rate below 0\.003 and head_learning_rate in .* below 0\.01$"
    ):
        _train(QUICK)


def test_weights_that_the_last_update_made_infinite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate = accumulate_gradients

    def huge(student: Network, *batch_and_how: Any) -> Any:
        losses = accumulate(student, *batch_and_how)
        next(p.grad for p in student.backbone.parameters() if p.grad is not None).fill_(1e10)
        return losses

    monkeypatch.setattr(training, "accumulate_gradients", huge)
    wild = {"learning_rate": 1e30, "max_gradient_norm": 1e30, "batch_size": 64}
    with pytest.raises(GateError, match="weights were no longer finite after step 1; the model is unchanged"):
        _train(QUICK.model_copy(update=wild))


def test_the_gradient_limit_bounds_the_length_of_an_update() -> None:
    config = QUICK.model_copy(update={"batch_size": 64, "momentum": 0.0, "max_gradient_norm": 0.5})
    teacher, student, report = _train(config)
    moved = [
        (a - b).pow(2).sum()
        for a, b in zip(teacher.backbone.parameters(), student.backbone.parameters(), strict=True)
    ]
    assert report.steps == 1
    assert 0 < torch.stack(moved).sum().sqrt().item() <= 0.5 * RECIPES["lwm"].learning_rate * 1.001


def test_the_head_can_have_a_separate_learning_rate() -> None:
    one_step = QUICK.model_copy(update={"batch_size": 64, "momentum": 0.0})
    _, before = teacher_and_student()
    _, as_the_rest, _ = _train(one_step)
    _, faster, _ = _train(one_step.model_copy(update={"head_learning_rate": 0.1}))
    moved = [after.head.weight - before.head.weight for after in (as_the_rest, faster)]
    torch.testing.assert_close(moved[1], 10 * moved[0], rtol=1e-3, atol=1e-7)
    assert moved[0].abs().max() > 1e-4
    assert _equal(_tensors(faster.backbone), _tensors(as_the_rest.backbone))  # type: ignore[arg-type]


def test_each_of_the_two_learning_rates_is_set_by_its_own_setting() -> None:
    given: tuple[dict[str, float], ...] = ({}, {"learning_rate": 0.5}, {"head_learning_rate": 0.25})
    adjusted = [RECIPES["lwm"].adjusted(IncrementConfig(recipe="lwm", **rates)) for rates in given]
    rates = [(recipe.learning_rate, recipe.head_learning_rate) for recipe in adjusted]
    assert rates == [(0.003, 0.01), (0.5, 0.01), (0.003, 0.25)]


def test_a_solved_head_is_not_trained() -> None:
    teacher, student = teacher_and_student()
    head = student.head.weight.clone()
    first = next(student.backbone.parameters()).clone()
    photos = photo_set("1", count=12, first_label=6, seed=0)
    train_increment(student, teacher, photos, QUICK, RECIPES["lwm-lda"], "sigmoid", PACE, ignore_progress)
    assert torch.equal(student.head.weight, head)
    assert not torch.equal(next(student.backbone.parameters()), first)


def test_networks_are_in_eval_mode_without_gradients_afterwards() -> None:
    teacher, student, _ = _train()
    networks: list[Callable[[], object]] = [teacher.parameters, student.parameters]
    assert not any(p.requires_grad for parameters in networks for p in parameters())  # type: ignore[attr-defined]
    assert not any(module.training for module in [*teacher.modules(), *student.modules()])


def _trained_by(pace: Pace) -> dict[str, Tensor]:
    teacher, student = teacher_and_student()
    photos = photo_set("1", count=6, first_label=6)
    train_increment(student, teacher, photos, QUICK, RECIPES["lwm"], "sigmoid", pace, ignore_progress)
    return _tensors(student)


ON_A_JETSON = (
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995, please report a bug'
)
# An error that is raised keeps all tensors of its traceback, so each test makes its own.
OUT_OF_GPU_MEMORY: tuple[tuple[type[RuntimeError], str], ...] = (
    (
        torch.cuda.OutOfMemoryError,
        "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity",
    ),
    (RuntimeError, ON_A_JETSON),
    (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
)


@pytest.mark.parametrize(("kind", "message"), OUT_OF_GPU_MEMORY)
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(
    kind: type[RuntimeError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _trained_by(replace(PACE, micro_batch_size=4))
    whole, sizes = step.lwm_losses, []

    def exhausted(*networks_and_outputs: Any, **options: Any) -> Losses:
        *_, labels = networks_and_outputs
        sizes.append(len(labels))
        losses = whole(*networks_and_outputs, **options)
        if len(labels) > 4:
            losses.total(1, 1).backward()  # type: ignore[no-untyped-call]
            raise kind(message)
        return losses

    monkeypatch.setattr(step, "lwm_losses", exhausted)
    found = _trained_by(PACE)
    assert sizes == [12, 8, 4, 4, 4]
    assert _equal(expected, found)


def test_a_gpu_without_room_for_one_image_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*networks_and_outputs: Any, **options: Any) -> Losses:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "lwm_losses", exhausted)
    with pytest.raises(ResourceError, match=r"even one image.*unchanged.*\(--frozen-blocks\), or pass"):
        _trained_by(PACE)


def test_frozen_blocks_run_on_fewer_images_at_once_if_the_gpu_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, sizes = Network.stem, []

    def exhausted(network: Network, images: Tensor) -> Activations:
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(network, images)

    monkeypatch.setattr(Network, "stem", exhausted)
    teacher, student = teacher_and_student()
    for network in (teacher, student):
        network.freeze(4)
    photos, pace = photo_set("1", count=6, first_label=6), replace(PACE, frozen_cache_bytes=2**30)
    report = train_increment(
        student, teacher, photos, QUICK, RECIPES["lwm"], "sigmoid", pace, ignore_progress
    )
    assert sizes == [1, 12, 1, 8, 1, 4, 4, 4]  # one image shows how many fit into the cache
    assert report.micro_batch_size == 4


def test_recomputed_blocks_give_the_same_student() -> None:
    kept, recomputed = _trained_by(PACE), _trained_by(replace(PACE, recompute=True))
    for name in kept:
        torch.testing.assert_close(kept[name], recomputed[name], rtol=1e-6, atol=1e-7)


_RECOMPUTING = """
import sys
import threading
import time
import torch
from lwm_edge.model.recomputation import recomputed
block, images = torch.nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
for known in (images, images.clone().requires_grad_()):
    block.zero_grad()
    block(known).square().sum().backward()
    expected = [p.grad.clone() for p in block.parameters()], known.grad
    block.zero_grad()
    known.grad = None
    recomputed(block, known).square().sum().backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(expected[0], block.parameters()))
    assert known.grad is None if expected[1] is None else torch.allclose(known.grad, expected[1])
heavy = {"torch._dynamo", "sympy", "torch.fx.experimental.symbolic_shapes"} & set(sys.modules)
assert not heavy, heavy
"""


def test_recomputing_has_the_same_gradients_and_loads_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", _RECOMPUTING], check=True)


def test_prefetch_changes_nothing() -> None:
    assert _equal(_trained_by(PACE), _trained_by(replace(PACE, prefetch=0)))


IN_BFLOAT16 = replace(PACE, precision="bfloat16")


class SlowPhotos(PhotoSet):
    """Holds photos that take for ever to read, unless the reader stops."""

    def load(self, indices, epoch=None, report=None):  # type: ignore[no-untyped-def]
        while True:
            time.sleep(0.01)
            report.again()


def test_training_can_be_stopped_while_it_waits_for_photos() -> None:
    """The current state is handed over to be saved, and no further photos are read."""
    ready = photo_set("1", count=12, first_label=6)
    slow = SlowPhotos(ready.photos, ready.preprocessing, ready.cache)
    teacher, student = teacher_and_student()
    stopped_at: list[int] = []

    def stop(state: TrainingState) -> None:
        stopped_at.append(state.step)
        raise StoppedError("enough")

    threads = threading.active_count()
    with pytest.raises(StoppedError):
        train_increment(
            student,
            teacher,
            slow,
            QUICK,
            RECIPES["lwm"],
            "sigmoid",
            PACE,
            ignore_progress,
            after_step=stop,
        )
    assert stopped_at == [0] and threading.active_count() == threads


def test_maps_and_losses_stay_float32_in_reduced_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = teacher_and_student()
    disturb(student)
    images, _ = batch_of(photo_set("1", first_label=6))
    in_blocks: list[torch.dtype] = []
    for network in (teacher, student):
        for block in network.blocks():
            block.register_forward_hook(lambda module, given, output: in_blocks.append(output.dtype))
    around: list[torch.dtype] = []
    whole = step.lwm_losses

    def losses(
        student: Network,
        teacher: Network,
        ours: Outputs,
        theirs: Outputs,
        labels: Tensor,
        **options: Any,
    ) -> Losses:
        found = whole(student, teacher, ours, theirs, labels, **options)
        around.extend(tensor.dtype for tensor in (*ours, *theirs, *found) if tensor is not None)
        return found

    def map_of(features: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        around.extend([features.dtype, weight.dtype, (found := attention_map(features, weight, b)).dtype])
        return found

    monkeypatch.setattr(step, "lwm_losses", losses)
    monkeypatch.setattr(step, "attention_map", map_of)
    batch = Batch(0, [6] * len(images), images.numpy())
    accumulate_gradients(student, teacher, batch, len(images), RECIPES["lwm"], "sigmoid", "bfloat16")
    assert set(in_blocks) == {torch.bfloat16} and set(around) == {torch.float32}
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in student.parameters() if p.grad is not None} == {torch.float32}
    assert student(images)[0].dtype == torch.float32 and in_blocks[-1] == torch.float32  # outside a step


def test_levels_are_read_in_float32_in_reduced_precision() -> None:
    network = network_with_levels()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    exact = network.activations(images)
    with computing_in("bfloat16", network):
        reduced = network.activations(images)
    assert {values.dtype for values in (reduced.maps, *reduced.levels)} == {torch.float32}
    assert not torch.equal(reduced.pooled(), exact.pooled())
    torch.testing.assert_close(reduced.pooled(), exact.pooled(), rtol=0.1, atol=0.05)


def test_the_teacher_is_byte_identical_after_training_in_reduced_precision() -> None:
    teacher, student = teacher_and_student()
    before, photos = _tensors(teacher), photo_set("1", count=12, first_label=6, seed=QUICK.seed)
    report = train_increment(
        student, teacher, photos, QUICK, RECIPES["lwm"], "sigmoid", IN_BFLOAT16, ignore_progress
    )
    _, by_float32, exact = _train()
    assert _equal(before, _tensors(teacher)) and not _equal(_tensors(student), _tensors(by_float32))
    assert report.classification_loss == pytest.approx(exact.classification_loss, rel=0.05)
    assert report.attention_distillation_loss == pytest.approx(exact.attention_distillation_loss, rel=0.2)


def test_recomputed_blocks_compute_in_reduced_precision_both_times() -> None:
    kept, recomputed = _trained_by(IN_BFLOAT16), _trained_by(replace(IN_BFLOAT16, recompute=True))
    exact = _trained_by(PACE)

    def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
        return sum(float((first[name] - second[name]).abs().sum()) for name in first)

    assert distance(kept, recomputed) < 0.01 * distance(kept, exact)


def test_maps_are_stored_in_the_order_in_which_convolutions_read_them() -> None:
    _, student = teacher_and_student()
    images, _ = batch_of(photo_set("1", first_label=6))
    for precision in ("float32", "bfloat16"):
        with computing_in(precision, student):
            assert student(images)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("precision", "share", "rounding"),
    [("float32", 1.0, 1e-6), ("float32", 0.5, 1e-5), ("bfloat16", 1.0, 1e-6), ("bfloat16", 0.5, 1e-3)],
)
def test_kept_outputs_of_frozen_blocks_give_the_same_student(
    precision: Precision, share: float, rounding: float
) -> None:
    def trained(kept_share: float) -> tuple[dict[str, Tensor], int]:
        teacher, _ = teacher_and_student()
        teacher.freeze(4)
        student = teacher.student(trains=True)
        student.add_classes(2, torch.Generator().manual_seed(0))
        photos, runs = photo_set("1", count=8, first_label=6), 0

        def count(module: Any, given: tuple[Tensor], output: Tensor) -> None:
            nonlocal runs
            runs += len(output)

        student.blocks()[3].register_forward_hook(count)
        with computing_in(precision, student):
            room = int(kept_share * len(photos.photos)) * frozen_bytes(student)
        runs = 0
        pace = replace(PACE, precision=precision, frozen_cache_bytes=room)
        config = QUICK.model_copy(update={"epochs": 3, "batch_size": 8})
        train_increment(student, teacher, photos, config, RECIPES["lwm"], "sigmoid", pace, ignore_progress)
        return _tensors(student), runs

    (without, runs_without), (with_kept, runs) = trained(0), trained(share)
    assert runs_without == 3 * 16 and runs <= 1 + (16 if share == 1 else 8 + 3 * 8)
    for name in without:
        torch.testing.assert_close(with_kept[name], without[name], rtol=0, atol=rounding)


def test_frozen_blocks_run_once_for_student_and_teacher() -> None:
    teacher, _ = teacher_and_student()
    teacher.freeze(4)
    student = teacher.student(trains=True)
    images, _ = batch_of(photo_set("1", first_label=6))
    batch = Batch(0, [6] * len(images), images.numpy())
    runs: list[int] = []
    for network in (teacher, student):
        for block in network.blocks()[:4]:
            block.register_forward_hook(lambda *_: runs.append(1))
    student.add_classes(1, torch.Generator().manual_seed(0))
    trained_parameters(student, RECIPES["lwm"])
    _, _, L_AD = accumulate_gradients(student, teacher, batch, len(images), RECIPES["lwm"], "sigmoid")
    assert len(runs) == 4 and L_AD < 1e-5
    torch.testing.assert_close(student(images)[1][:, :6], teacher(images)[1])
