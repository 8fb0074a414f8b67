"""Makes a home from a base (`init_home`), and makes changes other than increments (`change_model`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .. import durability, inspection, storage
from ..advice import home_option
from ..custody.keys import read_private_key
from ..errors import BundleError, BusyError, HomeError, LwmEdgeError
from ..model.bundle import Bundle, open_bundle
from ..model.custody_record import Deed
from ..model.manifest import Manifest
from ..model.onnx.parity import shipped_probe
from ..model.tensors import Arrays
from ..records import AnyPath, ProgressCallback, absolute, ignore_progress, one_step
from . import ownership
from .generation import Candidate, commit, prepare
from .home import Generation, Home, open_home
from .interrupted import describe_dropped
from .measurement import MemoryUse
from .reports import ChangeReport
from .trust import key_to_trust, require_signed_base, require_trusted_model, write_trusted_key

# For a base of 2 to 33 MiB, making a home takes half a second plus ten times as long as opening the base.
_SECONDS_OF_LOADING, _OPENINGS = 0.5, 10.0


def init_home(
    base: AnyPath,
    home: AnyPath,
    *,
    replace: bool = False,
    trust: AnyPath | None = None,
    wait: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> ChangeReport:
    """Makes a model home from a shipped base bundle.

    Args:
        base: Path of the bundle, which is copied.
        home: Path of the folder to make.
        replace: Whether to start over if the home exists; everything that it has learnt is then lost.
        trust: Path of the vendor's public key; the home then accepts only bases that this key signed, now and
            later. None keeps the key that the home already trusts, if any.
        wait: Whether to wait for another process that is changing the home.
        on_progress: Function that is called before the ONNX file is made and checked; any exception that it
            raises ends the call.

    Raises:
        BundleError: The base is missing or damaged.
        HomeError: There is a home already and `replace` is not set, or the folder holds something else or
            cannot be written to.
        ExportError: The ONNX file cannot be made, or the results of ONNX Runtime on this device differ from
            the network's (ParityError).
        TrustError: The base is not signed with the trusted key, or the key cannot be read.
        BusyError: Another process is changing the home, and `wait` is not set.
        ResourceError: Memory or disk space ran out.
    """
    started = time.monotonic()
    home = absolute(home)
    durability.require_safe_changes("make a home in", home)
    bundle = open_bundle(Path(base))
    expected_seconds = _SECONDS_OF_LOADING + _OPENINGS * (time.monotonic() - started)
    opened = Home(home)
    _check_init(home, bundle, replace)
    require_signed_base(base, bundle.manifest, key_to_trust(opened, trust))
    on_progress(one_step("commit", expected_seconds))
    with MemoryUse.measured() as use:
        arrays = bundle.arrays()
        candidate = _prepare(arrays, bundle.manifest, bundle, use, None, started=started, onnx_bytes_before=0)
    made_here = not os.path.lexists(home)
    locked = opened.lock(wait=wait, on_progress=on_progress)
    with _folder_made(home, made_here), locked, _no_half_made_home(opened, made_here):
        _check_init(home, bundle, replace)  # another process may have been faster
        key = key_to_trust(opened, trust)
        require_signed_base(base, candidate.manifest, key)  # the base may have been replaced in the meantime
        if key:  # written before the model, so that a home with a model always knows whom to trust
            write_trusted_key(opened, key)
        return _commit(opened, candidate, trusted_key=key)


@contextmanager
def _folder_made(home: Path, made_here: bool) -> Iterator[None]:
    """Makes the home's folder, and removes it again if the block fails.

    It is not removed if it was there before, contains more than a lock, or is being made into a home by
    another process.
    """
    try:
        storage.make_folder(home)
        yield
    except BusyError:  # another process is making the home
        raise
    except BaseException:
        if made_here:
            with suppress(LwmEdgeError):
                ownership.remove_new_folder(home)
        raise


@contextmanager
def _no_half_made_home(home: Home, made_here: bool) -> Iterator[None]:
    """Removes everything that `init` made, if the block fails before the folder is a home.

    Args:
        home: Model home; the caller holds its lock.
        made_here: Whether `init` made the folder too.
    """
    was_home = ownership.is_home(home.path)
    trusted = home.trust.exists()
    try:
        yield
    except BaseException:
        if not was_home and not ownership.is_home(home.path):
            with suppress(LwmEdgeError):  # the first failure is the one to report
                ownership.remove_half_made(home.path, keep_key=trusted, keep_folder=not made_here)
        raise


def _check_init(home: Path, base: Bundle, replace: bool) -> None:
    if around := inspection.home_around(home):
        raise HomeError(
            f"{home} is in the model home {around}, which may hold nothing but the model; choose another "
            "folder"
        )
    if not os.path.lexists(home):
        return
    if not home.is_dir():
        what = inspection.kind_at(home, follow=True) if home.exists() else "a link that leads nowhere"
        raise HomeError(f"{home} is {what}, not a folder; choose a new or empty folder")
    if ownership.is_home(home):
        if not replace:
            raise HomeError(f"{home} is already a model home; to start over from {base.path}, pass --replace")
        return
    ownership.require_nothing_foreign(home)
    models = ownership.generations_with_bundles(home)
    if not replace and not all(_is_copy_of(base, Generation(folder)) for folder in models):
        raise HomeError(
            f"{home} has a model, but {ownership.CURRENT} points at none; to keep it, run: lwm-edge repair "
            f"{home_option(home)}; or, to start over from {base.path}, pass --replace"
        )


def _is_copy_of(base: Bundle, generation: Generation) -> bool:
    """Returns whether a generation holds the unchanged base, as an interrupted `init` leaves it behind."""
    try:
        found = open_bundle(generation.bundle).manifest
    except BundleError:
        return False
    return found.increment_count == 0 and found.model_digest == base.manifest.model_digest


@dataclass(frozen=True)
class Edited:
    """Holds the result of editing a home's model.

    Attributes:
        arrays: Tensors of the changed model.
        manifest: Manifest of the changed model; `change_model` fills in its history.
        deed: Description of the change, for the custody record.
        remains: Sentences that say what is left of a removed class.
        may_be_undone: Whether undo may return to the model before this change, if the vendor permits undo at
            all.
    """

    arrays: Arrays
    manifest: Manifest
    deed: Deed
    remains: tuple[str, ...] = ()
    may_be_undone: bool = True


def change_model(
    home: Home | AnyPath,
    edit: Callable[[Generation, Bundle], Edited],
    *,
    sign_with: AnyPath | None,
    wait: bool,
    on_progress: ProgressCallback,
) -> ChangeReport:
    """Changes a home's model in one atomic step, and notes the change in the custody record and the ledger.

    Args:
        home: Model home, or the path of its folder.
        edit: Function that makes the changed model from the current generation and its bundle.
        sign_with: Path of the device's private key, which signs the change; None leaves the change unsigned.
        wait: Whether to wait for another process that is changing the home.
        on_progress: Function that is called before the new model is exported; any exception that it raises
            ends the call.
    """
    home = open_home(home)
    with home.lock(wait=wait, on_progress=on_progress), MemoryUse.measured() as use:
        started = time.monotonic()  # without the time of waiting
        generation = home.current()
        parent = open_bundle(generation.bundle)
        require_trusted_model(home, parent.manifest)
        device_key = read_private_key(sign_with) if sign_with else None
        edited = edit(generation, parent)
        on_progress(one_step("commit", parent.manifest.ledger.fastest_seconds))
        history = {
            "parent_digest": parent.manifest.model_digest,
            "increment_count": parent.manifest.increment_count + 1,
            "ledger": parent.manifest.ledger,
        }
        candidate = _prepare(
            edited.arrays,
            edited.manifest.model_copy(update=history),
            parent,
            use,
            device_key,
            started=started,
            onnx_bytes_before=generation.onnx_bytes(),
            deed=edited.deed,
            previous=parent.path if edited.may_be_undone else None,
        )
        return _commit(home, candidate, edited)


def _prepare(
    arrays: Arrays,
    manifest: Manifest,
    parent: Bundle,
    use: MemoryUse,
    device_key: Ed25519PrivateKey | None,
    *,
    started: float,
    onnx_bytes_before: int,
    deed: Deed | None = None,
    previous: Path | None = None,
) -> Candidate:
    probe = shipped_probe(arrays, manifest)
    return prepare(
        arrays,
        manifest,
        parent,
        probe,
        use.report(manifest.preprocessing.image_size, probe.images),
        started=started,
        onnx_bytes_before=onnx_bytes_before,
        device_key=device_key,
        deed=deed,
        previous=previous,
    )


def _commit(
    home: Home, candidate: Candidate, edited: Edited | None = None, *, trusted_key: str | None = None
) -> ChangeReport:
    deed = edited.deed if edited else None
    dropped = describe_dropped(home, candidate.manifest.parent_digest or "") if edited else ()
    report = ChangeReport(
        home=home.path,
        change=deed.kind if deed else None,
        changed_classes=deed.class_names if deed else (),
        increment=candidate.manifest.increment_count,
        removed_class=deed.class_names[0] if deed and deed.kind == "remove-class" else None,
        class_names=candidate.manifest.class_names,
        model_digest=candidate.manifest.model_digest,
        parity=candidate.parity,
        footprint=candidate.footprint,
        onnx=home.onnx,
        trusted_key=trusted_key,
        remains=edited.remains if edited else (),
        warnings=(
            *dropped,
            *home.describe_foreign(),
            *(() if edited else durability.durability_warnings(home.path)),
        ),
    )
    late = commit(home, candidate, report)
    return report.model_copy(update={"warnings": (*report.warnings, *late)})
