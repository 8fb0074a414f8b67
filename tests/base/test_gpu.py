"""A base is trained on a GPU in either precision, and training continues there; these tests need a GPU."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import distributed

from lwm_edge import BaseConfig, build_base, evaluate, init_home
from lwm_edge.base import saved_training
from lwm_edge.base.ranks import Ranks
from lwm_edge.base.saved_training import SavedTraining
from lwm_edge.base.train import train_base
from lwm_edge.demo import DEMO_DATA
from lwm_edge.learning.reports import TrainingReport
from lwm_edge.model.precision import computing_in
from lwm_edge.records import Progress
from tests.support.gpu import GPU, needs_gpu
from tests.support.networks import fresh_network
from tests.support.samples import photo_set

pytestmark = needs_gpu

CONFIG = BaseConfig(
    architecture="small_resnet20", image_size=28, capacity=8, epochs=3, batch_size=8, rotations=True, seed=3
)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_base_is_built_on_a_gpu(tmp_path: Path, precision: Literal["auto", "float32", "bfloat16"]) -> None:
    config = CONFIG.model_copy(
        update={"device": "cuda", "precision": precision, "epochs": 12, "batch_size": 32, "held_back": 0.0}
    )
    report = build_base(DEMO_DATA / "train" / "base", tmp_path / "base.lwm", config)
    assert report.training is not None
    init_home(tmp_path / "base.lwm", tmp_path / "home")
    assert evaluate(tmp_path / "home", DEMO_DATA / "test" / "base").accuracy > 0.6


def _trained(output: Path, killed_at: int = 0) -> TrainingReport | None:
    class Killed(BaseException):
        pass

    def stop(progress: Progress) -> None:
        if progress.done == killed_at:
            raise Killed

    network, photos = fresh_network("small_resnet20").to(GPU), photo_set("1", count=8, seed=3)
    torch.manual_seed(5)
    saved = SavedTraining(output, network, photos, CONFIG, Ranks())
    with suppress(Killed):
        return train_base(network, photos, CONFIG, saved, Ranks(), stop)
    return None


def test_training_continues_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_training, "SECONDS_BETWEEN_SAVES", 0.0)
    whole = _trained(tmp_path / "whole.lwm")
    assert _trained(tmp_path / "base.lwm", killed_at=5) is None
    continued = _trained(tmp_path / "base.lwm")
    assert whole and continued and continued.steps == whole.steps == 6
    # The order of photos and the rotations are the same, but a GPU's rounding differs from run to run.
    assert continued.classification_loss == pytest.approx(whole.classification_loss, rel=0.05)


@pytest.fixture
def nccl() -> Iterator[None]:
    """Makes this process the only one of a group that communicates as several GPUs would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=address, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("nccl")
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_and_buffers_go_through_nccl(precision: Literal["float32", "bfloat16"]) -> None:
    alone, joined = fresh_network("small_resnet20").to(GPU), fresh_network("small_resnet20").to(GPU)
    images = torch.randint(0, 256, (8, 28, 28, 3), dtype=torch.uint8, device=GPU)
    ranks = Ranks(0, 2, 0, 1)  # not 1, which would leave out all communication
    module = ranks.together(joined)
    for network, call in ((alone, alone), (joined, module)):
        network.train().requires_grad_(True)
        with computing_in(precision, network):
            call(images)[1].square().mean().backward()
    for expected, found in zip(alone.parameters(), joined.parameters(), strict=True):
        if expected.grad is not None:
            assert found.grad is not None
            scale = float(expected.grad.abs().max())
            torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-3 * scale + 1e-9)
    before = [buffer.clone() for buffer in joined.buffers()]
    ranks.average(joined.buffers())
    for old, new in zip(before, joined.buffers(), strict=True):
        expected_buffer = (
            old / 2 if old.is_floating_point() else old
        )  # the mean of two, one of which is missing
        torch.testing.assert_close(new, expected_buffer)
    assert ranks.by_first(lambda: "said") == "said"
