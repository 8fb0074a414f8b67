"""Imitates another system: removes modules and functions from this process, then runs a script in it.

    python -m tests.support.elsewhere windows SCRIPT.py ARGUMENTS

Libraries whose builds for this system use the removed parts are loaded first. On the other systems, these
libraries have separate builds.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LIBRARIES = (
    "subprocess shutil tempfile pathlib platform platformdirs psutil multiprocessing.connection onnxruntime "
    "PIL.Image rich.console cryptography.hazmat.primitives.asymmetric.ed25519 concurrent.futures.thread "
    "typer asyncio ctypes.util"
)
_NOT_ON_WINDOWS = {"fcntl", "resource", "pwd", "grp", "termios", "syslog", "crypt", "pty", "tty"}
_OS_NOT_ON_WINDOWS = (
    "fork forkpty register_at_fork symlink chown lchown fchown fchmod geteuid getegid getuid getgid "
    "getgroups O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_NOCTTY O_CLOEXEC O_PATH O_ASYNC pathconf fpathconf mkfifo "
    "mknod sched_getaffinity pread pwrite listxattr getxattr setxattr sysconf statvfs fstatvfs killpg setsid "
    "getpgid memfd_create sendfile posix_fadvise fdatasync"
)
_SIGNALS_NOT_ON_WINDOWS = "SIGKILL SIGXCPU SIGALRM SIGHUP SIGIO SIGUSR1 pthread_sigmask alarm"
_ONLY_ON_LINUX = "O_PATH sched_getaffinity listxattr getxattr setxattr memfd_create posix_fadvise"


class _Refusing(MetaPathFinder):
    """Makes imports of the given modules fail."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def take_away(system: str) -> None:
    """Removes the parts of the standard library that "windows" or "macos" lacks."""
    for library in _LIBRARIES.split():
        __import__(library)
    if system == "macos":
        _remove(os, _ONLY_ON_LINUX)
    else:
        for name in _NOT_ON_WINDOWS:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, _Refusing(_NOT_ON_WINDOWS))
        _remove(os, _OS_NOT_ON_WINDOWS)
        _remove(signal, _SIGNALS_NOT_ON_WINDOWS)
        _remove(select, "select poll epoll")  # Windows has select only, and only for sockets
    os.supports_dir_fd.clear()
    _hide_proc()


def _remove(module: ModuleType, names: str) -> None:
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


def _hide_proc() -> None:
    """Hides most of what the package reads in /proc, and so the cgroups."""
    import lwm_edge._cgroups
    from lwm_edge import freed_memory, memory
    from lwm_edge.photos import decoder

    nowhere = type(memory._STATUS)("/no/such/proc")
    memory._STATUS = freed_memory._PAGEMAP = lwm_edge._cgroups._MEMBERSHIP = nowhere
    decoder._STATUS = decoder._FORGET_PEAK = nowhere


if __name__ == "__main__":
    _, chosen, script, *arguments = sys.argv
    take_away(chosen)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
