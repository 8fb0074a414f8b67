"""A refusal by the system becomes one of `lwm_edge.errors`; the caller's own errors stay as they are."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import lwm_edge
from lwm_edge.errors import (
    ConfigError,
    HomeError,
    LwmEdgeError,
    ResourceError,
    explains_os_failures,
    known,
    os_failure,
)
from lwm_edge.records import Progress, ProgressCallback

NUMPYS_REASON = "\n\nIMPORTANT: PLEASE READ THIS\nOriginal error was: libblas.so: failed to map segment"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError(NUMPYS_REASON),
        OSError("libtorch_cpu.so: cannot allocate memory in static TLS block"),
    ],
    ids=str,
)
def test_a_lack_of_memory_is_not_reported_as_a_bug_whoever_notices_it(error: Exception) -> None:
    @explains_os_failures
    def fails() -> None:
        raise error

    assert isinstance(known(error), ResourceError)
    assert "()" not in str(known(error)) and "ulimit" in str(known(error))
    with pytest.raises(ResourceError):
        fails()


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 MiB.",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995',  # on a Jetson
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_a_full_gpu_is_not_taken_for_a_full_machine(message: str) -> None:
    error = known(RuntimeError(message))
    assert isinstance(error, ResourceError)
    assert "the GPU ran out of memory" in str(error) and "batch_size" in str(error)
    assert "ulimit" not in str(error)


def test_any_other_error_is_still_reported_as_a_bug() -> None:
    assert type(known(ImportError("No module named 'torch'"))) is LwmEdgeError
    assert type(known(RuntimeError("odd"))) is LwmEdgeError


def test_a_file_that_is_longer_than_allowed_is_not_blamed_on_permissions() -> None:
    refused = os_failure("write", "model.lwm", OSError(errno.EFBIG, "File too large"))
    assert isinstance(refused, ResourceError) and "ulimit -f" in str(refused)


@pytest.mark.parametrize("error", [ConnectionError("the app's"), BrokenPipeError(), MemoryError("the app's")])
def test_an_error_of_the_callers_function_is_passed_on_unchanged(error: Exception) -> None:
    @explains_os_failures
    def works(path: str, *, on_progress: ProgressCallback) -> None:
        on_progress(Progress(phase="photos", done=0, total=1))
        raise OSError(errno.EIO, "Input/output error", path)

    def raises(progress: Progress) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        works("x", on_progress=raises)
    assert caught.value is error
    with pytest.raises(HomeError, match="cannot use x"):
        works("x", on_progress=lambda progress: None)


def test_the_callers_function_may_be_given_by_position() -> None:
    @explains_os_failures
    def works(path: str, on_progress: ProgressCallback) -> None:
        on_progress(Progress(phase="photos", done=0, total=1))

    def raises(progress: Progress) -> None:
        raise ConnectionError("the app's")

    with pytest.raises(ConnectionError):
        works("x", raises)
    with pytest.raises(TypeError, match="on_progress"):
        works("x")  # type: ignore[call-arg]


def test_an_encoding_that_is_not_that_of_paths_is_the_callers_affair() -> None:
    def tells(on_report: Callable[[str], None], error: Exception) -> None:
        on_report("x")
        raise error

    def raises(report: str) -> None:
        raise OSError(errno.EIO, "the app's")

    with pytest.raises(OSError, match="the app's"):
        explains_os_failures(tells)(raises, ValueError())
    not_a_path = UnicodeEncodeError("koi8-r", "\xe9", 0, 1, "no such character")
    with pytest.raises(UnicodeEncodeError):
        explains_os_failures(tells)(lambda report: None, not_a_path)


def test_a_path_with_a_nul_character_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="has a NUL character"):
        lwm_edge.info("a/\0")
    with pytest.raises(ValueError, match="odd"):
        explains_os_failures(_odd)()


def test_a_path_that_the_locale_cannot_encode_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match=r"the character '\\ud800', which cannot be part of a path"):
        lwm_edge.open_home("a/\ud800")
    code = "import lwm_edge; lwm_edge.open_home('B\\u00f6rse')"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    end = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ascii_only, check=False
    )
    assert "ConfigError: a text has the character '\\xf6'" in end.stderr


def _odd() -> None:
    raise ValueError("odd")


def test_too_many_open_files_are_a_limit_of_this_process() -> None:
    refused = os_failure("use", "a file or pipe", OSError(errno.EMFILE, "Too many open files"))
    assert isinstance(refused, ResourceError) and "ulimit -n" in str(refused) and "close" not in str(refused)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"max_memory": "lots"}, "give a number of bytes, or one with a unit, such as 600MiB"),
        ({"max_memory": "5 heaps"}, "give a number of bytes, or one with a unit, such as 600MiB"),
        ({"epochs": True}, "true and false have no meaning here"),
        ({"beta": False}, "true and false have no meaning here"),
        ({"augment": 1}, "give true or false"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused(setting: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        lwm_edge.IncrementConfig(**setting)
    assert says in str(refused.value) and next(iter(setting)) in str(refused.value)
