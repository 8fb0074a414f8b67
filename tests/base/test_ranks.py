"""The results of several processes are combined as if one process had done all the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm_edge.base import observing, ranks
from lwm_edge.base.observing import learn_all, observe_all
from lwm_edge.base.ranks import Ranks, in_order, is_first_rank, joined
from lwm_edge.errors import ConfigError, PeerError, PhotosError, ResourceError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.photos.checking import CheckedFile
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.records import Progress, ignore_progress
from tests.support.folders import BASE_BUNDLE, PhotoMaker
from tests.support.samples import photo_set

PREPROCESSING = open_bundle(BASE_BUNDLE).manifest.preprocessing


@dataclass(frozen=True)
class InTurn(Ranks):
    """Stands in for one of several processes that run in turn; the last one sees the values of all."""

    kept: dict[int, list[Any]] | None = None

    def gather(self, value: Any) -> list[Any]:
        assert self.kept is not None
        self.kept.setdefault(self.rank, []).append(value)
        number = len(self.kept[self.rank]) - 1
        return [self.kept[rank][number] for rank in range(self.size) if rank in self.kept]

    def gather_in_first(self, value: Any) -> list[Any]:
        gathered = self.gather(value)
        return gathered if self.rank == self.size - 1 else []  # the last process stands in for the first


def last_of(size: int, work: Callable[[Ranks], Any]) -> Any:
    """Runs some work in several processes in turn, and returns the result of the last one."""
    kept: dict[int, list[Any]] = {}
    return [work(InTurn(rank, size, kept=kept)) for rank in range(size)][-1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_shares_are_disjoint_and_come_back_in_order(size: int) -> None:
    items = list(range(13))
    shares = [Ranks(rank, size).share(items) for rank in range(size)]
    assert in_order(shares) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_single_process_does_everything_itself() -> None:
    alone = Ranks()
    assert list(alone.map(str, [1, 2])) == ["1", "2"] and alone.gather(5) == [5] == alone.gather_in_first(5)
    assert alone.by_first(lambda: 7) == 7 and is_first_rank()
    module = torch.nn.Linear(2, 2)
    assert alone.together(module) is module
    with joined() as found:
        assert found == alone


def test_each_process_keeps_its_own_buffers_with_older_and_newer_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        together = Ranks(0, 2).together(torch.nn.BatchNorm1d(2))  # warnings are errors here
    finally:
        torch.distributed.destroy_process_group()
    options = ("forward_sync_buffers", "broadcast_buffers")
    assert not any(getattr(together, name) for name in options if name in vars(together))

    def before_2_13(module: Any, device_ids: Any, broadcast_buffers: bool = True) -> bool:
        return broadcast_buffers

    monkeypatch.setattr(ranks, "DistributedDataParallel", before_2_13)
    assert Ranks(0, 2).together(torch.nn.BatchNorm1d(2)) is False  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("size", [2, 3])
def test_a_folder_that_is_read_in_shares_gives_the_same_photos(size: int, make_photos: PhotoMaker) -> None:
    folder = make_photos("Bag", "Shirt", count=6)
    (folder / "Bag" / "again.png").write_bytes((folder / "Bag" / "000.png").read_bytes())
    (folder / "Shirt" / "broken.png").write_bytes(b"no photo")

    def read(ranks: Ranks) -> Any:
        def in_shares(check: Callable[[Any], CheckedFile], files: Sequence[Any]) -> Any:
            found = ranks.map(check, files)
            complete = ranks.rank == ranks.size - 1
            return (
                found if complete else iter([CheckedFile(digest=str(number)) for number in range(len(files))])
            )

        return read_photo_folder(folder, PREPROCESSING, PixelCache(0), min_photos=5, map_files=in_shares)

    whole = read_photo_folder(folder, PREPROCESSING, PixelCache(0), min_photos=5)
    assert len(whole.skipped) == 2
    assert last_of(size, read) == whole


def test_processes_that_see_different_files_are_refused() -> None:
    def check(ranks: Ranks) -> Any:
        files = [Path("a"), Path("b"), Path("c")][: 3 - ranks.rank]
        return ranks.map(lambda path: path.name, files)

    with pytest.raises(ConfigError, match=r"different numbers of files \(3, 2\); give every machine"):
        last_of(2, check)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Compares arrays to 1e-5 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.max(np.abs(expected))))


@pytest.mark.parametrize("size", [2, 3])
def test_statistics_of_shares_are_those_of_all_photos(size: int) -> None:
    network, photos = load_network(open_bundle(BASE_BUNDLE)), photo_set("base", count=5)
    whole = learn_all(network, photos, 8, Ranks(), ignore_progress)
    parts = last_of(size, lambda some: learn_all(network, photos, 8, some, ignore_progress))
    for name in ("means", "covariance", "counts", "photos"):
        assert_near(getattr(parts.statistics, name), getattr(whole.statistics, name))
    assert sorted(zip(parts.labels, parts.predictions, strict=True)) == sorted(
        zip(whole.labels, whole.predictions, strict=True)
    )
    seen = last_of(size, lambda some: observe_all(network, photos, some, ignore_progress))
    all_seen = observe_all(network, photos, Ranks(), ignore_progress)
    assert_near(seen.head_inputs, all_seen.head_inputs)


def test_more_photos_than_are_kept_in_memory_give_the_same_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, photos = load_network(open_bundle(BASE_BUNDLE)), photo_set("base", count=4)
    photos = replace(photos, augmentation_seed=0)
    whole = learn_all(network, photos, 8, Ranks(), ignore_progress, epochs=(0, 1))
    monkeypatch.setattr(observing, "PHOTOS_AT_ONCE", 10)
    pieces = learn_all(network, photos, 8, Ranks(), ignore_progress, epochs=(0, 1))
    assert pieces.statistics.photos == whole.statistics.photos == 48
    assert_near(pieces.statistics.means, whole.statistics.means)
    assert_near(pieces.statistics.covariance, whole.statistics.covariance)


def test_only_the_first_process_reports_progress() -> None:
    seen: list[Progress] = []
    Ranks(1, 2).reports(seen.append)(Progress(phase="train", done=1, total=2))
    assert seen == []
    report = Ranks(0, 2).reports_shares(Ranks(0, 2).reports(seen.append))
    for done in range(3):
        report(Progress(phase="photos", done=done, total=5))
    assert [progress.done for progress in seen] == [0, 2, 4]


def test_each_process_needs_a_separate_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Ranks(1, 2, 1, 2).device("auto") == torch.device("cuda", 1) and chosen == [1]
    assert Ranks(1, 4, 1, 4).device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"4 processes cannot share 2 GPUs: start one for each"):
        Ranks(1, 4, 1, 4).device("cuda")


class Counter:
    def __init__(self, before: int) -> None:
        self._count = before

    def add(self, key: str, amount: int, /) -> int:
        self._count += amount
        return self._count


@pytest.mark.parametrize(
    ("failed_before", "error", "expected"),
    [
        (0, PhotosError("a photo is gone"), PhotosError),
        (1, PhotosError("a photo is gone"), PeerError),
        (1, KeyboardInterrupt(), PeerError),
        (0, KeyboardInterrupt(), KeyboardInterrupt),
        (0, RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:2"), ResourceError),
        (1, RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:2"), PeerError),
        (0, RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_only_the_first_failure_is_raised_as_it_is(
    failed_before: int,
    error: BaseException,
    expected: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_has_peers", lambda: True)
    waited: list[float] = []

    def told_to_stop(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt  # torchrun ends this process because another one has failed

    monkeypatch.setattr("time.sleep", told_to_stop)
    monkeypatch.setattr(ranks, "rendezvous", lambda url: iter([(Counter(failed_before), 0, 2)]))
    monkeypatch.setattr("torch.distributed.PrefixStore", lambda prefix, store: store)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *given, **named: None)
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda values, value: None)
    left: list[bool] = []
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: left.append(True))
    with pytest.raises(expected) as caught, joined() as found:
        assert (found.rank, found.size) == (0, 2)
        raise error
    assert type(caught.value) is expected and left == [True]
    assert bool(waited) == (expected is PeerError)
