"""Runs the command line, as `lwm-edge` or `python -m lwm_edge`."""

import gc
import os
import signal

_OBJECTS_BETWEEN_COLLECTIONS = 100_000  # high, so that loading more modules seldom triggers a collection


def main() -> None:
    """Sets up how the command stops on request, loads the command line, and runs it."""
    try:
        from .cli import started  # noqa: F401 - imported first, to note the time before anything else loads
        from .cli.interruption import handle_requests_to_stop, ignore_requests_to_stop

        handle_requests_to_stop()
    except KeyboardInterrupt:  # before anything handles it
        _end_before_the_start()
    from .processors import thread_settings

    os.environ.update({**thread_settings(), **os.environ})
    gc.disable()  # libraries create little garbage while they load, so looking for it would waste time
    from .cli.commands import main as run_command_line

    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    gc.enable()

    try:
        run_command_line()
    finally:
        ignore_requests_to_stop()
        gc.freeze()  # the process is about to end, so nothing needs collecting


def _end_before_the_start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from .cli.interruption import end_at_once

    end_at_once(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
