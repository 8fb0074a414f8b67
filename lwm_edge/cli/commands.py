"""Lists the commands, and runs the one that is called.

With `--json`, which every command takes, standard output gets nothing but one JSON document; a command that
watches an inbox prints one for each report. Progress goes to standard error. The exit code says what went
wrong (see `errors`).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from .. import __version__
from .._streams import forgiving_streams, output_failure
from ..errors import ConfigError, known
from . import (
    check,
    inbox,
    interruption,
    owner,
    pages,
    prediction,
    revision,
    teaching,
    terminal,
    unknown,
    vendor,
)
from .answer import command, fail, lost_report
from .examples import help_of
from .options import refuse_empty_paths

app = typer.Typer(
    name="lwm-edge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Runs the command line, and turns errors into exit codes."""
    with forgiving_streams():
        try:
            _run()
        except Exception as error:
            failure = known(error)
            if "--debug" in sys.argv[1:]:
                terminal.note(failure.worker_traceback + "".join(traceback.format_exception(error)))
            fail(failure)
            sys.exit(failure.exit_code)


def _run() -> None:
    """Runs the app.

    Raises:
        ConfigError: The command line is wrong, and standard output should hold JSON.
        ResourceError: The help or the version cannot be printed.
    """
    interruption.command.started = False
    try:
        app()
    except SystemExit as end:
        is_misused = end.code == ConfigError.exit_code and not interruption.command.started
        if is_misused and "--json" in sys.argv[1:]:
            raise ConfigError("the command line is wrong; standard error says what to change") from None
        failure = None if end.code or interruption.command.started else output_failure()
        if failure:
            raise lost_report(failure) from None
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lwm-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="If something fails, also print where in the code it failed.")
    ] = False,
) -> None:
    """Teach a deployed image classifier new classes, on the device, from photos of the new classes alone."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": owner.demo,
    "build-base": vendor.build_base_command,
    "pack": vendor.pack_command,
    "init": owner.init_command,
    "check": check.check_command,
    "add-classes": teaching.add_classes_command,
    "add-photos": teaching.add_photos_command,
    "remove-class": revision.remove_class_command,
    "rename-class": revision.rename_class_command,
    "undo": revision.undo_command,
    "inbox": inbox.inbox_command,
    "predict": prediction.predict_command,
    "calibrate": unknown.calibrate_command,
    "evaluate": owner.evaluate_command,
    "info": owner.info_command,
    "report": pages.report_command,
    "export": owner.export_command,
    "repair": owner.repair_command,
    "audit": owner.audit_command,
    "keygen": vendor.keygen_command,
    "sign": vendor.sign_command,
    "verify": owner.verify_command,
}
for _name, _command in _COMMANDS.items():
    refuse_empty_paths(_command)
    _help = help_of(_name, _command)
    app.command(_name, help=_help.whole, short_help=_help.short)(command(_command))
