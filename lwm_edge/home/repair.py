"""Provides `repair_home`, which rebuilds a home's damaged files from its bundle; the bundle never changes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .. import inspection, storage
from ..advice import home_option
from ..errors import BundleError, HomeError, os_failure
from ..model.bundle import Bundle, open_bundle
from ..model.onnx.reports import ParityReport
from ..records import AnyPath, ProgressCallback, absolute, ignore_progress, one_step
from . import ownership
from .export import verified_onnx
from .generation import missing_or_changed, receipt_text, write_beside_bundle
from .home import Generation, Home
from .ownership import BUNDLE, CURRENT, GENERATIONS, PREVIOUS, RECEIPT
from .reports import RepairReport

_LOST = "the model before the latest change is lost, so there is nothing to undo"


def repair_home(
    home: Home | AnyPath, *, on_progress: ProgressCallback = ignore_progress, wait: bool = False
) -> RepairReport:
    """Verifies a home's bundle, and rebuilds the ONNX file, labels and receipt if they do not match it.

    The bundle, its digest and its ledger stay as they are. If the link `current` is missing or points
    nowhere, and there is only one model that it could mean, the link is pointed at that model. If nothing is
    wrong, nothing is written. The model that undo returns to cannot be rebuilt; if it is damaged, or the disk
    no longer gives it out, a copy of the current model takes its place.

    Args:
        home: Model home, or the path of its folder.
        on_progress: Function that is called before the ONNX file is rebuilt; any exception that it raises
            ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        HomeError: There is no model, it is unclear which one is current, or the home cannot be written to.
        BundleError: The bundle itself is damaged.
        ExportError: The ONNX file cannot be made, or the results of ONNX Runtime on this device differ from
            the network's (ParityError).
        BusyError: Another process is changing the home, and `wait` is not set.
        ResourceError: Memory or disk space ran out.
    """
    home = home if isinstance(home, Home) else Home(absolute(home))
    if not (home.path / GENERATIONS).is_dir():
        home.current()  # raises, and says how to make a home
    ownership.require_generations_inside(home.path)
    if not _linked_generation(home) or not ownership.is_home(home.path):
        _only_model(home)  # raises before a lock is made in a folder that is not a home
    # `lock` would remove files that may be needed.
    with home.lock_as_it_is(wait=wait, on_progress=on_progress):
        generation = _linked_generation(home)
        repaired = [] if generation else [f"{CURRENT} pointed at no model"]
        generation = generation or _only_model(home)
        bundle = _sound_bundle(generation)
        wrong = missing_or_changed(generation, bundle)
        if PREVIOUS in wrong:
            _require_permission(generation.previous)
        repaired += [f"{name} {why}" for name, why in wrong.items()]
        parity, content = None, b""
        if wrong:
            on_progress(one_step("export", bundle.manifest.ledger.fastest_seconds))
            content, _, parity = verified_onnx(bundle)
        report = _report(home, bundle, repaired, parity, lost=(_LOST,) if PREVIOUS in wrong else ())
        ownership.remove_staged(home.path)
        late: tuple[str, ...] = ()
        if wrong:
            late = _commit(home, generation, content, report, wrong)
        elif repaired:
            late = storage.swap_link(home.path / CURRENT, f"{GENERATIONS}/{generation.path.name}")
        return report.model_copy(update={"warnings": (*report.warnings, *late)})


def _linked_generation(home: Home) -> Generation | None:
    """Returns the generation that the link points at; None if the link is missing or points nowhere.

    Raises:
        HomeError: There is something else in place of the link.
    """
    link = home.path / CURRENT
    if link.exists() and not link.is_symlink():
        raise HomeError(
            f"{link} is not a link, as happens when a home is copied without its links; move it out of the "
            "home and repair again"
        )
    try:
        return home.current()
    except HomeError:
        return None


def _only_model(home: Home) -> Generation:
    """Finds the one complete generation or, if none is complete, the one whose bundle is sound."""
    sound: dict[Generation, bool] = {}
    for path in ownership.generation_folders(home.path):
        generation = Generation(path)
        try:
            sound[generation] = not missing_or_changed(generation, open_bundle(generation.bundle))
        except BundleError:
            continue
    found = [generation for generation, complete in sound.items() if complete] or list(sound)
    if len(found) == 1:
        return found[0]
    if not found:
        raise HomeError(
            f"{home.path} holds no sound model; start over with: "
            f"lwm-edge init BASE.lwm --replace {home_option(home.path)}"
        )
    raise HomeError(
        f"{home.path} holds several models, and {CURRENT} points at none of them; remove all but the one "
        "that you want (the highest number is the newest), and repair again",
        [str(generation.path) for generation in found],
    )


def _require_permission(path: Path) -> None:
    """Refuses to replace a file that cannot be rebuilt, and that may be sound, but that we may not read.

    Raises:
        HomeError: This process may not read the file.
    """
    try:
        inspection.open_regular(path).close()
    except PermissionError as error:
        raise os_failure("read", path, error) from None
    except OSError:  # the file is missing, or its disk fails
        pass


def _sound_bundle(generation: Generation) -> Bundle:
    try:
        return open_bundle(generation.bundle)
    except BundleError as error:
        raise BundleError(
            f"the model itself is damaged ({error.message}), and repair cannot fix it; replace {BUNDLE} with "
            "a sound copy, or start over from the shipped base with "
            f"lwm-edge init BASE.lwm --replace {home_option(generation.home)}",
            error.problems,
        ) from None


def _commit(
    home: Home, old: Generation, onnx_file: bytes, report: RepairReport, wrong: Collection[str]
) -> tuple[str, ...]:
    """Makes a new generation from the bundle, the sound files and the rebuilt ones, in one atomic step."""
    bundle = open_bundle(old.bundle)
    keep_receipt, keep_previous = RECEIPT not in wrong, PREVIOUS not in wrong
    receipt = (
        inspection.read_regular(old.receipt)
        if keep_receipt
        else receipt_text(report, bundle.manifest.capacity)
    )

    def write(generation: Generation) -> None:
        """Writes all files of the new generation."""
        storage.write_file(generation.bundle, inspection.read_regular(old.bundle))
        previous = old.previous if keep_previous else None
        write_beside_bundle(generation, bundle.manifest, previous, onnx_file, receipt)

    return home.commit(write, same_model=True)


def _report(
    home: Home, bundle: Bundle, repaired: list[str], parity: ParityReport | None, lost: tuple[str, ...]
) -> RepairReport:
    return RepairReport(
        home=home.path,
        repaired=tuple(repaired),
        class_names=bundle.manifest.class_names,
        model_digest=bundle.manifest.model_digest,
        parity=parity,
        onnx=home.onnx,
        warnings=(*lost, *home.describe_foreign()),
    )
