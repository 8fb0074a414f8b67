"""Defines the errors that lwm_edge raises for its callers.

    LwmEdgeError                 1
    ├── ConfigError              2   a setting or an argument is wrong
    ├── PhotosError              3   photos, or their folder, cannot be used
    ├── BundleError              4   a bundle file is missing, damaged, foreign or from another version
    │   ├── ArchitectureError    4   a network cannot be used, or its name is unknown
    │   └── CapacityError        4   the bundle has no room for the classes or their names
    ├── HomeError                4   a model home is missing or damaged, or a file operation was refused
    ├── ResourceError            5   memory, disk space or another resource ran out
    ├── GateError                6   the student is not good enough to replace its teacher
    ├── ExportError              7   the ONNX file cannot be made or used
    │   └── ParityError          7   the ONNX file does not compute what the network computes
    ├── TrustError               8   a key, a signature or a chain of custody does not verify
    ├── PeerError                1   another process failed while making the same base, and said why
    ├── BusyError               75   another process is working on the home or the inbox; try again
    └── StoppedError           130   the job was stopped on request (143: by SIGTERM)

The number is the command line's exit code. Exit code 9 belongs to none of these errors: it means that some
photos could not be read, but the others were classified.
"""

from __future__ import annotations

import errno
import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeGuard, TypeVar

from .wording import counted

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST_LINE = 300
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
_SYSTEM_RAN_SHORT = (errno.ENOMEM, errno.ENFILE, errno.EAGAIN)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO, errno.ESTALE)
_OUT_OF_MEMORY_WORDS = (
    "allocate memory",
    "not enough memory",  # as torch says it on Windows
    "out of memory",
    "bad_alloc",
    "failed to map segment",  # the loader's words when there is no memory for a library
    "can't start new thread",  # each thread needs memory, and counts towards a limit
)
_OUT_OF_GPU_MEMORY_WORDS = (
    "cuda out of memory",
    "cuda error: out of memory",
    "status_alloc_failed",  # as cuBLAS and cuDNN say it
    "nvml_success == r",  # torch's words on a Jetson: https://github.com/pytorch/pytorch/issues/185240
)
_OTHER_FILE_SYSTEM = "a home needs them, so choose a folder on another file system, such as ext4"

SOME_PHOTOS_FAILED = 9
"""Exit code of a command that did its work for some photos but could not read the others."""

NOT_OFFERED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
"""Error numbers that various file systems return for a feature that they do not offer."""


class LwmEdgeError(Exception):
    """Signals that something went wrong; it is the base class of all other errors.

    Args:
        message: What was wrong, where, and what to do about it.
        problems: Problems in detail.
    """

    exit_code = 1
    worker_traceback = ""
    """Traceback from the worker process, if the error happened there; `lwm-edge --debug` prints it."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(in_one_line, [self.message, *(f"  - {problem}" for problem in self.problems)]))


def in_one_line(text: str) -> str:
    """Escapes control characters, which the names of files may contain, so that they cannot forge a line."""
    return "".join(c.encode("unicode_escape").decode() if c < " " or c == "\x7f" else c for c in text)


class ConfigError(LwmEdgeError):
    """A setting or an argument is wrong."""

    exit_code = 2


class PhotosError(LwmEdgeError):
    """Photos, or their folder, cannot be used."""

    exit_code = 3


class BundleError(LwmEdgeError):
    """A bundle file is missing, damaged, foreign or from another version."""

    exit_code = 4


class ArchitectureError(BundleError):
    """A network cannot be used, for example because of its structure, or its name is unknown."""


class CapacityError(BundleError):
    """The bundle has no room for the classes or their names."""


class HomeError(LwmEdgeError):
    """A model home is missing or damaged, or the operating system refused a file operation."""

    exit_code = 4


class ResourceError(LwmEdgeError):
    """Memory, disk space or another resource of the system ran out."""

    exit_code = 5


class GateError(LwmEdgeError):
    """The student is not good enough to replace its teacher."""

    exit_code = 6


class ExportError(LwmEdgeError):
    """The ONNX file cannot be made or used."""

    exit_code = 7


class ParityError(ExportError):
    """The ONNX file does not compute what the network computes."""


class TrustError(LwmEdgeError):
    """A key, a signature or a chain of custody does not verify."""

    exit_code = 8


class PeerError(LwmEdgeError):
    """Another process failed while making the same base; that process says why, so this one need not."""


class BusyError(LwmEdgeError):
    """Another process is working on the home or the inbox; try again."""

    exit_code = 75


class StoppedError(LwmEdgeError):
    """The job was stopped on request."""

    exit_code = 130


def shortened(lines: Sequence[str], listed: int, one: str = "more", many: str = "more") -> list[str]:
    """Returns the first `listed` lines and, if there are more, a line that says how many."""
    rest = [f"and {counted(len(lines) - listed, one, many)}"] if len(lines) > listed else []
    return [*lines[:listed], *rest]


def first_line(error: Exception) -> str:
    """Returns the first line of another library's error, short, printable and without its full stop."""
    line = next(filter(str.strip, str(error).splitlines()), type(error).__name__).rstrip()
    line = line if line.endswith("..") else line.removesuffix(".")
    line = line if line.isprintable() else ascii(line)
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."


def is_about_access(error: Exception) -> bool:
    """Returns whether an error says nothing of a file's content: the system could not open or read it."""
    return isinstance(error, OSError) and error.errno in (*_SYSTEM_RAN_SHORT, *_NO_ACCESS)


def os_failure(action: str, where: object, error: OSError) -> LwmEdgeError:
    """Turns the operating system's refusal into an error that says what to do.

    Args:
        action: Verb that says what was tried, such as "write".
        where: Path on which it was tried, or a name for the place.
        error: Operating system's error.
    """
    why = error.strerror or first_line(error)
    if error.errno in _DISK_IS_FULL:
        return ResourceError(f"cannot {action} {where}: the disk is full; free some space and try again")
    if error.errno == errno.EFBIG:
        return ResourceError(
            f"cannot {action} {where}: the file would be longer than is allowed here; raise the limit "
            "(ulimit -f), or choose another file system"
        )
    if error.errno == errno.EMFILE:
        return ResourceError(
            f"cannot {action} {where}: this process has too many files open; raise the limit (ulimit -n)"
        )
    if error.errno in _SYSTEM_RAN_SHORT:
        return ResourceError(f"cannot {action} {where}: {why}; close other programs and try again")
    if action == "lock" and error.errno in NOT_OFFERED and error.errno != errno.EPERM:
        return HomeError(f"cannot lock {where}: this file system has no locks ({why}); {_OTHER_FILE_SYSTEM}")
    if action == "link" and error.errno in NOT_OFFERED:
        return HomeError(
            f"cannot make the link {where}: this file system has no symbolic links ({why}); "
            f"{_OTHER_FILE_SYSTEM}"
        )
    return HomeError(f"cannot {action} {where}: {why}; check the path and its permissions")


def ran_out_of_memory(error: Exception) -> bool:
    """Returns whether an error, from Python or a library, means a lack of memory or threads."""
    text = str(error).lower()
    words_for_it = (*_OUT_OF_MEMORY_WORDS, *_OUT_OF_GPU_MEMORY_WORDS)
    return isinstance(error, MemoryError) or any(words in text for words in words_for_it)


def ran_out_of_gpu_memory(error: Exception) -> bool:
    """Returns whether an error means that a GPU has too little free memory."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_GPU_MEMORY_WORDS)


def known(error: Exception) -> LwmEdgeError:
    """Turns any error into an LwmEdgeError."""
    if isinstance(error, LwmEdgeError):
        return error
    if ran_out_of_gpu_memory(error):
        return ResourceError(
            f"the GPU ran out of memory ({first_line(error)}); close other programs that use it, or try "
            "again with a smaller batch_size, or with device cpu"
        )
    if ran_out_of_memory(error):
        return ResourceError(
            f"the system ran out of memory or threads ({first_line(error)}); close other programs, or "
            "raise the limits of this process (ulimit -v, ulimit -u), and try again"
        )
    if isinstance(error, OSError):
        return os_failure("use", error.filename or "a file or pipe", error)
    if _is_about_nul(error):
        return ConfigError("a path has a NUL character, which no file name can have; give another path")
    if _is_about_locale(error):
        return ConfigError(
            f"a text has the character {error.object[error.start]!a}, which cannot be part of a path here "
            f"(paths are encoded as {error.encoding}); leave the character out, or set a UTF-8 locale"
        )
    if wrong := _type_refused_as_path(error):
        return ConfigError(f"a path must be a str or an os.PathLike object, not {wrong}; give another one")
    return unexpected(error)


def _is_about_nul(error: Exception) -> bool:
    """Returns whether Python refused a path because of a NUL character."""
    return isinstance(error, ValueError) and "embedded null" in str(error)


def _is_about_locale(error: Exception) -> TypeGuard[UnicodeEncodeError]:
    """Returns whether a path has a character that file names cannot have in this locale."""
    return isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding()


def _type_refused_as_path(error: Exception) -> str | None:
    """Returns the type that Python refused as a path; None if the error is about something else."""
    words = r"(?:PathLike|__fspath__).* not (?:of type )?(?:<class )?'?(\w+)'?>?$"
    found = re.search(words, str(error)) if isinstance(error, TypeError) else None
    return found[1] if found else None


def explains_os_failures(function: Callable[P, T]) -> Callable[P, T]:
    """Wraps a public function so that a refusal by the operating system is raised as an LwmEdgeError.

    The same goes for a lack of memory or threads, and for a path that Python refuses. An empty path is
    refused too, because Python takes it for the current folder. An error that the caller's own `on_progress`
    raises is passed on unchanged.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def explained(*given: P.args, **named: P.kwargs) -> T:
        """Calls the function, and turns refusals by the operating system into LwmEdgeErrors."""
        callers_errors: list[Exception] = []
        try:
            arguments = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # Python says what is wrong with the arguments
        for name, value in arguments.arguments.items():
            if isinstance(value, str) and not value and "AnyPath" in signature.parameters[name].annotation:
                raise ConfigError(f"{name} is an empty path; give the path of a file or folder")
        for name in {"on_progress", "on_report"} & arguments.arguments.keys():
            if callable(callback := arguments.arguments[name]):
                arguments.arguments[name] = noting_errors(callback, callers_errors)
        try:
            return function(*arguments.args, **arguments.kwargs)
        except Exception as error:
            is_refusal = (
                isinstance(error, OSError)
                or ran_out_of_memory(error)
                or _is_about_nul(error)
                or _is_about_locale(error)
                or _type_refused_as_path(error) is not None
            )
            if isinstance(error, LwmEdgeError) or not is_refusal or error in callers_errors:
                raise
            raise known(error) from error

    return explained


def noting_errors(callback: Callable[..., object], noted: list[Exception]) -> Callable[..., None]:
    """Wraps a callback so that its errors are noted in a list, and can be told apart from all others."""

    def noting(*given: object) -> None:
        """Calls the callback, and notes the error if it raises one."""
        try:
            callback(*given)
        except Exception as error:
            noted.append(error)
            raise

    return noting


def unexpected(error: Exception) -> LwmEdgeError:
    """Turns an unforeseen error into one that says what happened, where, and how to report it."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(frame[0].filename).name}, line {frame[0].lineno})" if frame else ""
    return LwmEdgeError(
        f"unexpected {type(error).__name__}{where}: {error}. This is a bug in lwm-edge. Please report it "
        "to whoever gave you lwm-edge, with what the command prints when run as `lwm-edge --debug ...`."
    )
