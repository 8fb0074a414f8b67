"""Provides `undo`, which returns to the model before the latest change if the vendor permits undo."""

from __future__ import annotations

from ..advice import home_option
from ..custody.chain import make_deed
from ..errors import BundleError, ConfigError, HomeError
from ..inspection import refusal
from ..model.bundle import Bundle
from ..records import AnyPath, ProgressCallback, ignore_progress
from .changes import Edited, change_model
from .generation import permits_undo, previous_model
from .home import Generation, Home
from .reports import ChangeReport


def undo(
    home: Home | AnyPath,
    *,
    sign_with: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> ChangeReport:
    """Returns to the model before the latest change; the ledger and the custody record list this as a change.

    A second call takes back the first one.

    Args:
        home: Model home, or the path of its folder.
        sign_with: Path of the device's private key, which signs the change; None leaves the change unsigned.
        on_progress: Function that is called before the new model is exported; any exception that it raises
            ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: The vendor does not permit undo, or there is nothing to return to.
        BundleError: The bundle of the model before the latest change is missing or damaged, or belongs to
            another model; or the current one is damaged.
        ExportError: The ONNX file cannot be made, or the results of ONNX Runtime on this device differ from
            the network's (ParityError).
        HomeError: There is no home, or it cannot be written to.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the signing key
            cannot be used.
        ResourceError: Memory or disk space ran out.
    """
    return change_model(home, _return_to_previous, sign_with=sign_with, on_progress=on_progress, wait=wait)


def _return_to_previous(generation: Generation, current: Bundle) -> Edited:
    if not permits_undo(current.manifest):
        raise ConfigError(
            "the vendor does not permit undo for this model, so the model before the latest change is not "
            "kept; to start over from the base, run "
            f"lwm-edge init BASE.lwm --replace {home_option(generation.home)}"
        )
    previous = model_before(generation, current)
    if previous is None:
        raise ConfigError(
            f"there is nothing to undo: {generation.previous.name} holds the current model, as it does after "
            "init, after remove-class --exact, and after a repair of that file"
        )
    return Edited(previous.arrays(), previous.manifest, make_deed("undo"))


def model_before(generation: Generation, current: Bundle) -> Bundle | None:
    """Opens the model before the latest change; None if there is nothing to return to.

    Raises:
        BundleError: The file is missing or damaged, its disk fails, or it belongs to another model.
        HomeError: The file may not be read.
    """
    why = "is missing or damaged"
    try:
        previous = previous_model(generation, current)
    except HomeError as error:
        refused = refusal(error)
        if refused is None or isinstance(refused, PermissionError):
            raise
        previous, why = None, f"cannot be read ({refused.strerror})"
    if previous is None:
        raise BundleError(
            f"{generation.previous} {why}, so there is nothing to return to; run: "
            f"lwm-edge repair {home_option(generation.home)}"
        )
    return previous if previous.manifest != current.manifest else None
