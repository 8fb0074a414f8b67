"""On a GPU, the loop learns what it learns on the CPU, up to rounding; these tests need a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lwm_edge.learning import step
from lwm_edge.learning.batches import Pace
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.layout import channels_last
from lwm_edge.learning.reports import TrainingReport
from lwm_edge.learning.step import Losses
from lwm_edge.learning.training import train_increment
from lwm_edge.records import ignore_progress
from tests.support.gpu import GPU, needs_gpu
from tests.support.networks import teacher_and_student
from tests.support.samples import QUICK, photo_set

pytestmark = needs_gpu

PACE = Pace(micro_batch_size=16, prefetch=1, recompute=False)


def _trained(device: torch.device, pace: Pace = PACE) -> tuple[dict[str, Tensor], TrainingReport]:
    teacher, student = teacher_and_student()
    for network in (teacher, student):
        network.to(device)
    photos = photo_set("1", count=12, first_label=6)
    with channels_last(student, teacher, pace.precision, device == GPU):
        report = train_increment(
            student, teacher, photos, QUICK, RECIPES["lwm"], "sigmoid", pace, ignore_progress
        )
    return {name: tensor.cpu() for name, tensor in student.state_dict().items()}, report


def _same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in expected.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance * scale + 1e-12, msg=name)


@pytest.mark.parametrize("pace", [PACE, replace(PACE, recompute=True), replace(PACE, micro_batch_size=5)])
def test_a_gpu_trains_the_student_that_a_cpu_trains(pace: Pace) -> None:
    expected, on_cpu = _trained(torch.device("cpu"))
    found, on_gpu = _trained(GPU, pace)
    _same(found, expected, 2e-3)  # torch lets convolutions round to 10 bits
    for term in ("classification_loss", "distillation_loss", "attention_distillation_loss"):
        assert getattr(on_gpu, term) == pytest.approx(getattr(on_cpu, term), rel=2e-2, abs=1e-3)


def test_bfloat16_is_as_near_as_its_8_bits() -> None:
    expected, on_cpu = _trained(torch.device("cpu"))
    found, on_gpu = _trained(GPU, replace(PACE, precision="bfloat16"))
    _same(found, expected, 2e-2)
    assert on_gpu.classification_loss == pytest.approx(on_cpu.classification_loss, rel=0.02)


def test_a_batch_that_the_gpu_has_no_room_for_is_halved_until_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = _trained(GPU, replace(PACE, micro_batch_size=4))
    sizes, whole = list[int](), step.lwm_losses

    def noted(*networks_and_outputs: object, **options: object) -> Losses:
        *_, labels = networks_and_outputs
        sizes.append(len(labels))  # type: ignore[arg-type]
        losses = whole(*networks_and_outputs, **options)  # type: ignore[arg-type]
        if len(labels) > 4:  # type: ignore[arg-type]
            total = torch.cuda.get_device_properties(GPU).total_memory
            torch.empty(2 * total, dtype=torch.uint8, device=GPU)  # more than any GPU has
        return losses

    monkeypatch.setattr(step, "lwm_losses", noted)
    found, _ = _trained(GPU)
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 4]
    _same(found, expected, 2e-3)
