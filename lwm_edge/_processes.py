"""Starts processes that run a module of this package.

The process that starts another is called its parent. When the parent ends, the standard input of the new
process closes, so the new process notices. Callers decide what is sent through the pipes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import ConfigError

_LOW_PRIORITY = 10  # niceness; the lowest priority is 19
# Runs a module's `main`. Unlike `python -m`, it keeps the current folder off the path: no file there may run.
_START_CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; from {} import main; main()"


def start_process(
    module: str,
    *,
    environment: Mapping[str, str],
    descriptor: int | None = None,
    blocked: Collection[signal.Signals] = (signal.SIGINT,),
) -> subprocess.Popen[bytes]:
    """Starts a process that runs a module's `main`.

    By default, Ctrl-C does not reach the process, because one that is still loading libraries would end with
    a traceback. The parent still gets it, and asks the process to stop.

    Args:
        module: Full name of the module.
        environment: Environment variables for the process; those already set in this process take precedence.
        descriptor: File descriptor that the process inherits.
        blocked: Signals that do not reach the process.

    Raises:
        ConfigError: `sys.executable` is not a Python interpreter.
        OSError: The system refuses to start another process.
    """
    command, start_in = [_python(), "-c", _START_CODE.replace("{}", module)], _existing_folder()
    with _signals_blocked(blocked):
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes when this process ends, for whatever reason
            stdout=subprocess.PIPE,
            pass_fds=() if descriptor is None else (descriptor,),
            env={**environment, **os.environ},
            cwd=start_in,
        )


def lower_priority() -> None:
    """Makes this process, and any that it starts, give way to others that want the processor or the disk."""
    # Errors are ignored: the system may have no priorities, or a sandbox may hide them.
    with suppress(OSError, AttributeError, psutil.Error):
        os.nice(max(0, _LOW_PRIORITY - os.nice(0)))
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


@contextmanager
def _signals_blocked(signals: Collection[signal.Signals]) -> Iterator[None]:
    """Blocks signals in this thread, and in any process that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _python() -> str:
    """Returns the path of the Python interpreter that runs the processes.

    Raises:
        ConfigError: `sys.executable` is unknown, or it is the app that this Python is embedded in: if that
            app were started with the arguments of an interpreter, it could do anything.
    """
    executable = sys.executable or ""
    name = Path(executable).name.lower()
    if getattr(sys, "frozen", False) or not any(python in name for python in ("python", "pypy")):
        raise ConfigError(
            f"sys.executable is {executable!r}, which is not a Python interpreter, so no process can be "
            "started with it; before the call, set sys.executable to a Python that has lwm_edge installed "
            "(to add classes without another process, pass isolate=False)"
        )
    return executable


def _existing_folder() -> str | None:
    """Returns the root folder if the current folder is gone, else None.

    The maths library MKL ends any process whose current folder is gone.
    """
    try:
        Path.cwd()
    except OSError:
        return os.sep
    return None
