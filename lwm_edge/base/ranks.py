"""Lets several processes make one base: `torchrun` starts them, and they divide the photos among themselves.

Every process runs the same code. Where the work is divided, each process takes a share of the photos, and the
results are combined. Decisions follow from what the first process computes; it alone writes files, prints
results and reports progress. A process that torchrun did not start is alone, and this module changes nothing
for it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from inspect import signature
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, LwmEdgeError, PeerError, ResourceError
from ..learning.config import Device
from ..learning.running import choose_device
from ..photos.photo_set import PhotoSet
from ..records import Progress, ProgressCallback, ignore_progress
from ..wording import counted

S = TypeVar("S")
T = TypeVar("T")

_TIMEOUT = timedelta(days=1)  # the first process solves heads and exports while the others wait
_SECONDS_TO_REPORT = 10.0
_TORCHRUN_SETS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "TORCHELASTIC_RESTART_COUNT",
)
# Parts of error messages, without their first letters, which may be capitals.
_LOST_CONNECTION = ("onnection closed", "onnection reset", "onnection refused", "roken pipe")


@dataclass(frozen=True)
class Ranks:
    """Identifies this process among several, and combines the results of all of them.

    Attributes:
        rank: Number of this process, from 0.
        size: Total number of processes.
        local_rank: Number of this process among those on the same machine, from 0.
        local_size: Number of processes on the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Tells whether this is the process that writes and reports."""
        return self.rank == 0

    def device(self, setting: Device) -> torch.device:
        """Chooses the device of this process; each process on a machine gets a separate GPU.

        Raises:
            ConfigError: There is no GPU, or there are fewer GPUs than processes.
        """
        device = choose_device(setting)
        if device.type != "cuda" or self.size == 1:
            return device
        if self.local_size > (gpus := torch.cuda.device_count()):
            raise ConfigError(
                f"{self.local_size} processes cannot share {counted(gpus, 'GPU', 'GPUs')}: start one for "
                f"each GPU (torchrun --nproc-per-node {gpus}), or choose device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Returns this process's share: every `size`-th item."""
        return items[self.rank :: self.size]

    def photos(self, photos: PhotoSet) -> PhotoSet:
        """Returns this process's share of some photos."""
        return replace(photos, photos=self.share(photos.photos))

    def map(self, function: Callable[[S], T], items: Sequence[S]) -> Iterable[T]:
        """Applies a function to every item, as the built-in `map` does; each process does its share.

        Raises:
            ConfigError: The numbers of items differ between processes, so the machines have different files.
        """
        if self.size == 1:
            return map(function, items)
        shares = self.gather((len(items), [function(item) for item in self.share(items)]))
        if len({count for count, _ in shares}) > 1:
            raise ConfigError(
                f"the processes find different numbers of files ({', '.join(str(n) for n, _ in shares)}); "
                "give every machine the same photos"
            )
        return in_order([results for _, results in shares])

    def gather(self, value: T) -> list[T]:
        """Collects a value from each process; every process gets all values, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def gather_in_first(self, value: T) -> list[T]:
        """Collects a value from each process; the first one gets all values, and the others get nothing."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size if self.is_first else []
        distributed.gather_object(value, values if self.is_first else None)
        return values

    def by_first(self, work: Callable[[], T]) -> T:
        """Lets the first process do some work; every process gets the result."""
        if self.size == 1:
            return work()
        result: list[Any] = [work() if self.is_first else None]
        distributed.broadcast_object_list(result)
        return result[0]  # type: ignore[no-any-return]

    def together(self, module: nn.Module) -> nn.Module:
        """Makes a module whose gradients are means over all processes; each process has its own buffers."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        ids = [device] if device.type == "cuda" else None
        known = signature(DistributedDataParallel).parameters
        # torch 2.13 renamed the option, and warns about the old name.
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        own_buffers: dict[str, Any] = {option: False}
        return DistributedDataParallel(module, device_ids=ids, **own_buffers)

    @torch.no_grad()
    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replaces tensors by their means over all processes, except integer counters, which agree anyway."""
        for tensor in tensors if self.size > 1 else ():
            if tensor.is_floating_point():
                distributed.all_reduce(tensor)
                tensor /= self.size

    def reports(self, on_progress: ProgressCallback) -> ProgressCallback:
        """Returns the callback in the first process, and one that does nothing in the others."""
        return on_progress if self.is_first else ignore_progress

    def reports_shares(self, on_progress: ProgressCallback) -> ProgressCallback:
        """Makes a callback for divided work: a step in the first process counts as one step in each."""

        def scaled(progress: Progress) -> None:
            """Reports the progress of all processes, as if all had got as far as this one."""
            done = min(progress.done * self.size, progress.total)
            on_progress(progress.model_copy(update={"done": done}))

        return on_progress if self.size == 1 else scaled


def in_order(shares: Sequence[Sequence[T]]) -> list[T]:
    """Merges the results that each process has for its share, in the order of the items."""
    ordered: list[Any] = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        ordered[rank :: len(shares)] = share
    return ordered


def is_first_rank() -> bool:
    """Tells whether this process is the one that reports; works even before the processes join."""
    return not _has_peers() or int(os.environ["RANK"]) == 0


def _has_peers() -> bool:
    """Tells whether torchrun started several processes.

    Raises:
        ConfigError: Only some of the variables that torchrun sets are there.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return False
    if missing := [name for name in _TORCHRUN_SETS if name not in os.environ]:
        raise ConfigError(
            f"the environment looks like torchrun's, but lacks {', '.join(missing)}; start this with "
            "torchrun, or unset the variables that begin with TORCHELASTIC_"
        )
    return int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Joins the other processes that torchrun started, if any, for as long as the block of code runs.

    If the block fails in one process, it fails in all. The process that failed first raises its error or, if
    that says only that another process is gone, a ResourceError. All other processes raise a PeerError, which
    need not be shown to anybody.
    """
    if not _has_peers():
        yield Ranks()
        return
    shared, rank, size = next(rendezvous("env://"))
    # When torchrun restarts the processes, it keeps the store and everything that the old ones left in it.
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    store = distributed.PrefixStore(f"attempt {attempt}", shared)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    ranks = Ranks(rank, size, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        ranks.gather(None)  # waits until all have joined, so that nobody trains while one is missing
        with warnings.catch_warnings():
            # The warning is harmless: copying gradients whose strides differ takes little time.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket")
            yield ranks
    except BaseException as error:
        if not _is_first_failure(store):
            _let_the_first_failure_be_reported()
            raise PeerError("another process failed while making this base, and said why") from error
        if isinstance(error, Exception) and _lost_a_peer(error):
            raise ResourceError(
                "another process ended without an error message while making this base, perhaps "
                "because memory ran out; run the same command again, which continues any saved training"
            ) from error
        raise
    finally:
        distributed.destroy_process_group()


class _SharedCounter(Protocol):
    """Describes a store of counters that all processes share, such as torch's."""

    def add(self, key: str, amount: int, /) -> int:
        """Adds an amount to a counter, and returns the new count."""


def _is_first_failure(store: _SharedCounter) -> bool:
    """Notes a failure where all processes can see it; returns whether it is the first one."""
    try:
        return store.add("lwm-edge failures", 1) == 1
    except RuntimeError:  # torchrun, which keeps the store, has ended
        return True


def _let_the_first_failure_be_reported() -> None:
    """Waits while the process that failed first says why: once any process ends, torchrun ends the others."""
    with suppress(KeyboardInterrupt):  # torchrun ends this process
        time.sleep(_SECONDS_TO_REPORT)


def _lost_a_peer(error: Exception) -> bool:
    """Tells whether an error says only that another process does not answer."""
    if isinstance(error, LwmEdgeError):
        return False
    return isinstance(error, distributed.DistError) or any(words in str(error) for words in _LOST_CONNECTION)
