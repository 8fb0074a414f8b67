"""Measures the memory that one change to a model takes, and counts the networks and images left in memory.

For resident memory, the kernel keeps a high-water mark that can be reset. It keeps none for the parts of this
memory (anonymous; mapped or shared) or for the process tree, so a thread samples those.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress, filterfalse
from typing import Any

import numpy as np

from ..memory import cgroup_peak, peak_rss_bytes, reset_peak_rss, resident_parts, tree_rss_bytes
from .reports import MemoryReport

SAMPLING_SECONDS = 0.02
_SAMPLES_BETWEEN_TREES = 10  # listing the children means reading every process on the machine
_OBJECTS_AT_ONCE = 20_000
_SECONDS_TO_PASS_ON = 1.0  # in which other threads of the app are done with the images that they work on
_SECONDS_BETWEEN_LOOKS = 0.02
_NETWORKS = (("lwm_edge.model.network", "Network"), ("lwm_edge.model.backbone", "Backbone"))
_CONTAINERS = {tuple, dict}  # the garbage collector ignores those that contain nothing it tracks


class MemoryUse:
    """Measures memory from the moment it is created; `measured` creates one."""

    def __init__(self, sampler: _Sampler, read_cgroup: Callable[[], tuple[int | None, str]]) -> None:
        self._images_before = count_alive().images.keys()
        self._sampler, self._read_cgroup = sampler, read_cgroup
        if _gpu_in_use():
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        self._reset = reset_peak_rss()

    @classmethod
    @contextmanager
    def measured(cls) -> Iterator[MemoryUse]:
        """Resets the high-water marks, and samples the other figures until the block ends."""
        with cgroup_peak() as read_cgroup, _Sampler() as sampler:
            yield cls(sampler, read_cgroup)

    def report(
        self, image_size: int, *known: np.ndarray[Any, Any], student: object | None = None
    ) -> MemoryReport:
        """Reports all figures up to now.

        Args:
            image_size: Side of the model's images, in pixels.
            known: Images that the caller still uses but will not keep; they do not count.
            student: Network that is not a teacher; all others count as teachers.
        """
        peak = peak_rss_bytes()
        anonymous, mapped, tree = self._sampler.peaks()
        cgroup, cgroup_how = self._read_cgroup()
        gc.collect()
        alive = count_alive(image_size)
        not_left = self._images_before | {_buffer(array) for array in known}
        return MemoryReport(
            peak_rss_bytes=peak,
            peak_anonymous_bytes=anonymous,
            peak_mapped_bytes=mapped,
            peak_tree_bytes=max(peak, tree),
            peak_cgroup_bytes=cgroup,
            peak_cuda_bytes=sys.modules["torch"].cuda.max_memory_allocated() if _gpu_in_use() else None,
            teacher_networks=sum(network is not student for network in alive.networks),
            images_alive=_still_alive(alive, not_left),
            how=self._how(cgroup_how, image_size),
        )

    def _how(self, cgroup: str, image_size: int) -> dict[str, str]:
        since = (
            "reset at the start and after any planning"
            if self._reset
            else "since the process began: it could not be reset"
        )
        sampled = f"largest of samples every {1000 * SAMPLING_SECONDS:.0f} ms"
        return {
            "peak_rss_bytes": f"the kernel's high-water mark (VmHWM), {since}",
            "peak_anonymous_bytes": f"RssAnon, {sampled}",
            "peak_mapped_bytes": f"RssFile + RssShmem, {sampled}",
            "peak_tree_bytes": "largest sum of this process's and its children's RSS, sampled every "
            f"{1000 * SAMPLING_SECONDS * _SAMPLES_BETWEEN_TREES:.0f} ms, at least peak_rss_bytes; shared "
            "pages count once per process",
            "peak_cgroup_bytes": cgroup,
            "peak_cuda_bytes": "torch.cuda.max_memory_allocated, reset at the start",
            "teacher_networks": "Network and Backbone objects that the garbage collector finds, less the "
            "student",
            "images_alive": "arrays and tensors of shape [..., n, n, 3] or [..., 3, n, n], n >= "
            f"{image_size}, that the garbage collector finds, less those there at the start, those used "
            "to check the ONNX file, the weights of networks, and those that are gone within a second",
        }


class _Sampler(threading.Thread):
    """Samples the figures that have no high-water mark, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(name="lwm-edge-memory", daemon=True)
        self._stopped = threading.Event()
        self._anonymous: int | None = None
        self._mapped: int | None = None
        self._tree = 0

    def run(self) -> None:
        """Takes samples until the thread is told to stop."""
        samples = 0
        while not self._stopped.wait(SAMPLING_SECONDS):
            self._sample_parts()
            if samples % _SAMPLES_BETWEEN_TREES == 0:
                self._tree = max(self._tree, tree_rss_bytes())
            samples += 1

    def __enter__(self) -> _Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    def peaks(self) -> tuple[int | None, int | None, int]:
        """Returns the peaks of anonymous memory, mapped memory and the process tree until now."""
        self._sample_parts()
        return self._anonymous, self._mapped, max(self._tree, tree_rss_bytes())

    def _sample_parts(self) -> None:
        if parts := resident_parts():
            anonymous, mapped = parts
            self._anonymous = max(self._anonymous or 0, anonymous)
            self._mapped = max(self._mapped or 0, mapped)


def _gpu_in_use() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_initialized())


def _loaded_class(module: str, name: str) -> type | None:
    """Returns a class if its module is loaded, else None, as no object of the class can exist then."""
    found: type | None = getattr(sys.modules.get(module), name, None)
    return found


@dataclass(frozen=True)
class Alive:
    """Lists the networks and images that are alive in this process, whatever refers to them.

    Attributes:
        networks: All networks, of torch and of ONNX Runtime.
        images: Number of images in each block of memory, by its address; several views of a block count once.
        views: Arrays and tensors in each such block; these references keep none of them alive.
    """

    networks: list[Any]
    images: dict[int, int]
    views: dict[int, list[weakref.ref[Any]]]


def count_alive(image_size: int = 1) -> Alive:
    """Looks for networks and images among all objects that the garbage collector knows or can reach.

    Args:
        image_size: Smallest side of an image, in pixels; smaller arrays, such as kernels, do not count.
    """
    networks: list[Any] = []
    images: dict[int, int] = {}
    addresses: dict[int, set[int]] = {}
    views: dict[int, list[weakref.ref[Any]]] = {}
    objects = gc.get_objects()
    of_networks = tuple(kind for kind in (_loaded_class(*where) for where in _NETWORKS) if kind)
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, of_networks)}
    for start in range(0, len(objects), _OBJECTS_AT_ONCE):
        some = objects[start : start + _OBJECTS_AT_ONCE]
        networks += _of_types(kinds, some)
        for array in _arrays(some):
            if count := _image_count(tuple(array.shape), image_size):
                buffer = _buffer(array)
                images[buffer] = max(images.get(buffer, 0), count)
                addresses.setdefault(buffer, set()).add(_address(array))
                views.setdefault(buffer, []).append(weakref.ref(array))
    weights = {tensor.data_ptr() for network in networks for tensor in network.tensors()}
    images = {buffer: count for buffer, count in images.items() if not addresses[buffer] <= weights}
    return Alive(networks, images, views)


def _still_alive(alive: Alive, not_left: Set[int]) -> int:
    """Counts the images that stay in memory; waits for those that other threads are about to let go.

    Args:
        alive: Everything that was alive a moment ago.
        not_left: Addresses of blocks whose images do not count.
    """
    left = alive.images.keys() - not_left
    end = time.monotonic() + _SECONDS_TO_PASS_ON
    while left and time.monotonic() < end:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        left = {buffer for buffer in left if any(view() is not None for view in alive.views[buffer])}
    return sum(alive.images[buffer] for buffer in left)


def _arrays(objects: list[Any]) -> Iterator[Any]:
    """Yields the arrays and tensors among the objects, and the arrays to which the objects refer."""
    tensor = _loaded_class("torch", "Tensor")
    yield from _of_types({np.ndarray, *([tensor] if tensor else [])}, objects)
    while objects:
        held = gc.get_referents(*objects)
        yield from _of_types({np.ndarray}, held)
        objects = list(filterfalse(gc.is_tracked, _of_types(_CONTAINERS, held)))


def _of_types(types: Set[type], objects: list[Any]) -> Iterator[Any]:
    """Picks objects of exactly these types; runs no Python code for each, as there are millions of them."""
    return compress(objects, map(types.__contains__, map(type, objects)))


def _image_count(shape: tuple[int, ...], image_size: int) -> int:
    if len(shape) < 3:
        return 0
    first, second, third = shape[-3:]
    is_image = (first == second >= image_size and third == 3) or (
        first == 3 and second == third >= image_size
    )
    return int(np.prod(shape[:-3])) if is_image else 0


def _buffer(array: Any) -> int:
    """Returns the address of the memory that an array or tensor is a view of."""
    if not isinstance(array, np.ndarray):
        return array.untyped_storage().data_ptr() if _has_address(array) else id(array)
    while isinstance(array.base, np.ndarray):
        array = array.base
    return _address(array)


def _address(array: Any) -> int:
    """Returns the address of an array's or tensor's first value."""
    if not isinstance(array, np.ndarray):
        return array.data_ptr() if _has_address(array) else id(array)
    address: int = array.__array_interface__["data"][0]
    return address


def _has_address(tensor: Any) -> bool:
    """Returns whether a tensor's values have one place in memory, unlike those of a sparse tensor."""
    return bool(tensor.layout == sys.modules["torch"].strided)
