"""Increments whose steps run on a GPU are committed, pass the audit, and say how much memory they took there.

These tests need a GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm_edge import IncrementConfig, IncrementReport, add_classes, audit, evaluate
from lwm_edge.errors import StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment.learn import learn_classes
from lwm_edge.learning import step
from lwm_edge.learning.step import Losses
from lwm_edge.model.loading import load_network
from lwm_edge.model.onnx.parity import head_inputs_of_probe
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker
from tests.support.gpu import GPU, needs_gpu
from tests.support.samples import QUICK

pytestmark = needs_gpu

ON_GPU = QUICK.model_copy(update={"device": "cuda", "epochs": 3, "batch_size": 4, "force": True})


def _add(home: Home, photos: Path, config: IncrementConfig) -> IncrementReport:
    return add_classes(home, photos, config, isolate=False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", ["finetune", "lwf-mc", "lwm", "lwm-lda"])
def test_every_recipe_that_trains_is_committed(
    home: Home, make_photos: PhotoMaker, recipe: str, precision: str
) -> None:
    config = ON_GPU.model_copy(update={"recipe": recipe, "precision": precision})
    report = _add(home, make_photos("Bag", "Shirt"), config)
    assert report.plan.precision == precision
    assert report.footprint.memory.peak_cuda_bytes and report.footprint.memory.peak_cuda_bytes > 2**20
    assert audit(home).passed
    bundle = home.open_bundle()
    probe = bundle.arrays()["probe.head_inputs"]  # computed on the CPU
    np.testing.assert_allclose(head_inputs_of_probe(load_network(bundle)), probe, rtol=0, atol=1e-5)


def test_a_gpu_learns_about_as_well_as_a_cpu(home: Home, tmp_path: Path, make_photos: PhotoMaker) -> None:
    other = shutil.copytree(home.path, tmp_path / "other", symlinks=True)
    photos, config = make_photos("Bag", "Shirt", count=40), ON_GPU.model_copy(update={"batch_size": 16})
    on_gpu = _add(home, photos, config)
    on_cpu = add_classes(other, photos, config.model_copy(update={"device": "cpu"}), isolate=False)
    for term in ("classification_loss", "distillation_loss", "attention_distillation_loss"):
        found, expected = getattr(on_gpu.training, term), getattr(on_cpu.training, term)
        assert found == pytest.approx(expected, rel=0.02, abs=1e-3)
    test = make_photos("Bag", "Shirt", count=40, folder="test")
    assert abs(evaluate(home, test).accuracy - evaluate(other, test).accuracy) <= 0.1


def test_training_on_a_gpu_is_saved_and_resumed(home: Home, make_photos: PhotoMaker) -> None:
    photos, seen = make_photos("Bag", "Shirt"), list[Progress]()

    def is_enough() -> bool:
        return seen[-1].phase == "train" and seen[-1].done == 3

    with home.lock(), pytest.raises(StoppedError, match="step 3 of training"):
        learn_classes(home, photos, ON_GPU, seen.append, is_enough)
    seen.clear()
    report = add_classes(home, photos, ON_GPU, on_progress=seen.append, isolate=False)
    assert next(p.done for p in seen if p.phase == "train") == 4
    assert report.training is not None and audit(home).passed


def test_too_little_memory_on_the_gpu_halves_the_micro_batch(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, little_memory: None
) -> None:
    sizes, whole = list[int](), step.lwm_losses

    def noted(*networks_and_outputs: Any, **options: Any) -> Losses:
        *_, labels = networks_and_outputs
        sizes.append(len(labels))
        return whole(*networks_and_outputs, **options)

    monkeypatch.setattr(step, "lwm_losses", noted)
    config = ON_GPU.model_copy(update={"batch_size": 256, "micro_batch_size": 256, "epochs": 30})
    report = _add(home, make_photos("Bag", "Shirt", "Sneaker", "Ankle boot", count=80), config)
    assert report.training is not None and report.plan.micro_batch_size == 256
    assert sizes[-1] < 128
    peak = report.footprint.memory.peak_cuda_bytes
    assert peak and peak < _LIMIT


_LIMIT = 128 * 2**20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Lets torch take only 128 MiB of the GPU's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(_LIMIT / total, GPU)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    torch.cuda.empty_cache()


def test_a_worker_process_uses_the_gpu(home: Home, make_photos: PhotoMaker) -> None:
    report = add_classes(home, make_photos("Bag"), ON_GPU)
    assert report.footprint.memory.peak_cuda_bytes and audit(home).passed


def test_instant_increments_leave_the_gpu_alone(home: Home, make_photos: PhotoMaker) -> None:
    report = add_classes(home, make_photos("Bag"), IncrementConfig(recipe="lda"))
    assert report.footprint.memory.peak_cuda_bytes is None
