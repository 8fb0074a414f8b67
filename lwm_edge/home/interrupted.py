"""Describes an interrupted increment, from the header of the checkpoint that it left in its home."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from ..advice import home_option, quoted
from ..records import AnyNamePath, ExactPath, Report
from .home import Home
from .ownership import checkpoint_header


class InterruptedReport(Report):
    """Reports an increment that was interrupted while it trained.

    Attributes:
        step: Number of the last update before the checkpoint was written.
        photos: Path of the folder with its photos; None if that is unknown.
        resume: Command that continues the increment.
    """

    step: int
    photos: AnyNamePath | None
    resume: str


class _Header(BaseModel):
    """Reads the few fields that this package needs from a checkpoint's header; see `increment.resume`."""

    model_config = ConfigDict(extra="ignore")

    parent_digest: str
    step: int
    photos: ExactPath | None = None


def interrupted_increment(home: Home, model_digest: str) -> InterruptedReport | None:
    """Describes the interrupted increment that can be continued; None if there is none for this model.

    Args:
        home: Model home.
        model_digest: Digest of the home's model.
    """
    try:
        header = _Header.model_validate_json(checkpoint_header(home.training) or b"")
    except ValidationError:
        return None
    if header.parent_digest != model_digest:
        return None
    photos = quoted(header.photos) if header.photos else "PHOTOS"
    return InterruptedReport(
        step=header.step,
        photos=header.photos,
        resume=f"lwm-edge add-classes {photos} {home_option(home.path)}",
    )


def describe_dropped(home: Home, model_digest: str) -> tuple[str, ...]:
    """Returns a warning that a change to the model drops an interrupted increment; () if it drops none."""
    left_off = interrupted_increment(home, model_digest)
    if left_off is None:
        return ()
    return (
        f"the increment that was interrupted at step {left_off.step} belonged to the model before this "
        "change, so its saved progress was dropped; to learn its classes from the start, run this with the "
        f"options that it had: {left_off.resume}",
    )
