"""Interrupted training continues, and ends as it would have without the interruption."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lwm_edge.base import build, saved_training
from lwm_edge.base.config import BaseConfig
from lwm_edge.base.ranks import Ranks
from lwm_edge.base.saved_training import SavedTraining
from lwm_edge.base.train import train_base
from lwm_edge.errors import ConfigError
from lwm_edge.learning.reports import TrainingReport
from lwm_edge.model.network import Network
from lwm_edge.photos.photo_set import PhotoSet
from lwm_edge.records import Progress, ignore_progress
from tests.support.folders import PhotoMaker, state_of
from tests.support.networks import fresh_network
from tests.support.samples import photo_set

CONFIG = BaseConfig(
    architecture="small_resnet20", image_size=28, capacity=8, epochs=3, batch_size=8, rotations=True, seed=3
)


class Killed(BaseException):
    pass


def train(output: Path, killed_at: int = 0, config: BaseConfig = CONFIG) -> tuple[Network, TrainingReport]:
    def stop(progress: Progress) -> None:
        if progress.done == killed_at:
            raise Killed

    network, photos, ranks = fresh_network("small_resnet20"), photo_set("1", count=8, seed=3), Ranks()
    torch.manual_seed(5)
    saved = SavedTraining(output, network, photos, config, ranks)
    return network, train_base(network, photos, config, saved, ranks, stop)


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_training, "SECONDS_BETWEEN_SAVES", 0.0)


@pytest.mark.usefixtures("saving")
def test_interrupted_training_ends_as_it_would_have_without_the_interruption(tmp_path: Path) -> None:
    whole, report = train(tmp_path / "whole.lwm")
    with pytest.raises(Killed):
        train(tmp_path / "base.lwm", killed_at=5)  # in the last of three epochs, which have two steps each
    photos = photo_set("1", count=8, seed=3)
    saved = SavedTraining(tmp_path / "base.lwm", fresh_network("small_resnet20"), photos, CONFIG, Ranks())
    assert saved.epoch == 2 and saved.path.name == "base.lwm.training"
    for _ in range(2):  # the second time, all epochs are done already
        continued, again = train(tmp_path / "base.lwm")
        state = continued.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
        assert again.classification_loss == report.classification_loss and again.steps == report.steps == 6
    saved.forget()
    assert not saved.path.exists()


@pytest.mark.usefixtures("saving")
def test_unfinished_training_of_another_base_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "base.lwm", killed_at=3)
    before = state_of(tmp_path)
    other = CONFIG.model_copy(update={"epochs": 5})
    with pytest.raises(ConfigError, match=r"base\.lwm\.training holds training with other photos or set"):
        train(tmp_path / "base.lwm", config=other)
    assert state_of(tmp_path) == before
    with pytest.raises(Killed):
        train(tmp_path / "base.lwm", killed_at=3, config=CONFIG.model_copy(update={"device": "cpu"}))


@pytest.mark.usefixtures("saving")
def test_training_does_not_go_on_from_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "base.lwm", killed_at=3)
    others = [fresh_network("small_resnet20"), fresh_network("small_resnet32")]
    others[0].head.weight.data += 1
    for other in others:
        monkeypatch.setattr("tests.base.test_saved_training.fresh_network", lambda name, other=other: other)
        with pytest.raises(ConfigError, match="or from another network, interrupted after epoch 1"):
            train(tmp_path / "base.lwm")


@pytest.mark.usefixtures("saving")
def test_training_continues_whatever_bytes_are_in_the_files_name(tmp_path: Path) -> None:
    output = tmp_path / os.fsdecode(b"b\xff.lwm")
    with pytest.raises(Killed):
        train(output, killed_at=5)
    train(output)


def test_settings_that_keep_no_pretrained_weights_belong_to_the_same_training() -> None:
    network, photos = fresh_network("small_resnet20"), photo_set("1", count=2)

    def digest(**settings: object) -> str:
        return saved_training._job_digest(network, photos, CONFIG.model_copy(update=settings))

    assert digest() == digest(pretrained_share=0.0) != digest(epochs=4)
    assert digest(weights="imagenet") == digest(weights="imagenet", pretrained_share=0.5) != digest()
    assert digest(weights="imagenet", pretrained_share=0.0) != digest(weights="imagenet")


def test_a_file_that_holds_no_training_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "base.lwm.training").write_text("notes")
    with pytest.raises(ConfigError, match="another file is there; move that file elsewhere"):
        train(tmp_path / "base.lwm")
    assert (tmp_path / "base.lwm.training").read_text() == "notes"


def test_training_that_takes_less_than_a_minute_saves_nothing(tmp_path: Path) -> None:
    train(tmp_path / "base.lwm")
    assert not list(tmp_path.iterdir())


def test_the_saved_training_is_removed_once_the_base_is_written(
    tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, saving: None
) -> None:
    output, there = tmp_path / "base.lwm", list[bool]()
    config = CONFIG.model_copy(update={"rotations": False, "epochs": 1, "grid": 0})

    def finish(network: Network, *given: object, **named: object) -> str:
        there.append(output.with_name("base.lwm.training").is_file())
        return "report"

    monkeypatch.setattr(build, "finish_base", finish)
    assert build.build_base(make_photos("Bag", "Shirt"), output, config) == "report"  # type: ignore[comparison-overlap]
    assert there == [True] and not output.with_name("base.lwm.training").exists()


@pytest.mark.parametrize("processes", [2, 3])
def test_batches_with_fewer_than_two_photos_per_process_are_refused(processes: int, tmp_path: Path) -> None:
    network, photos = fresh_network("small_resnet20"), photo_set("1", count=8)
    config, few = CONFIG.model_copy(update={"batch_size": 2 * processes - 1}), Ranks(0, processes)
    saved = SavedTraining(tmp_path / "base.lwm", network, photos, config, Ranks())
    with pytest.raises(ConfigError, match=f"pass --batch-size {2 * processes} or more, or start fewer"):
        train_base(
            network,
            PhotoSet(photos.photos, photos.preprocessing, photos.cache),
            config,
            saved,
            few,
            ignore_progress,
        )
