"""Teaches new classes, and writes a page about the home that shows photos, attention maps and mistakes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import inspection
from ..errors import LwmEdgeError, PhotosError
from ..home.home import Home, open_home
from ..increment.add import add_classes
from ..increment.reports import IncrementReport
from ..increment.resume import resumed_settings
from ..learning.config import IncrementConfig
from ..model.bundle import Bundle, open_bundle
from ..model.torch_needed import torch_is_installed
from ..photos.listing import list_photos
from ..photos.pixels import Pixels
from ..photos.preprocessing import Preprocessing
from ..photos.reading import read_photo
from ..records import AnyPath, ProgressCallback, StepReporter, ignore_progress
from ..wording import counted
from .facts import gather_facts
from .report import PAGE_STEPS, PageReport, check_page, render

_PICTURES, _PER_CLASS, _MISTAKES = 24, 4, 24
_MAP_SHARE = 0.6  # share of a picture's colour that comes from the map, at the map's largest value

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """Holds one photo, as data that the page embeds.

    Attributes:
        image: Photo as the network sees it.
        class_name: Name of its class.
        taken_for: Name of the class that it was mistaken for; empty if that is not known.
        before: Photo with the old model's attention map; empty if there is none.
        after: Photo with the new model's attention map; empty if there is none.
        looked_for: Name of the old class for which the maps show evidence; empty if there are no maps.
    """

    image: str
    class_name: str
    taken_for: str = ""
    before: str = ""
    after: str = ""
    looked_for: str = ""


@dataclass(frozen=True)
class Moment:
    """Holds the facts that are known only at the moment of learning.

    Attributes:
        headline: Sentence that says what was learnt.
        warnings: Sentences that say what to watch out for.
        pictures: Some of the new photos, with attention maps if there are any.
        maps_note: Sentences that explain the maps, or say why there are none.
        mistakes: Held-back photos that were not recognised, up to a limit.
        mistakes_made: Number of held-back photos that were not recognised.
        held_back: Number of held-back photos.
    """

    headline: str
    warnings: tuple[str, ...]
    pictures: tuple[Picture, ...]
    maps_note: str
    mistakes: tuple[Picture, ...]
    mistakes_made: int
    held_back: int

    @property
    def embedded(self) -> int:
        """Returns the number of photos that the page embeds."""
        return len(self.pictures) + len(self.mistakes)

    @property
    def has_maps(self) -> bool:
        """Returns whether the pictures have attention maps."""
        return any(picture.before for picture in self.pictures)


class Taught(NamedTuple):
    """Holds the receipt of an increment, and the report on its page, which is None if no page was written."""

    receipt: IncrementReport
    page: PageReport | None


def add_classes_with_page(
    home: Home | AnyPath,
    photos: AnyPath,
    page: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
    started: float | None = None,
) -> Taught:
    """Teaches new classes as `add_classes` does, and writes a page that shows photos, maps and mistakes.

    The page embeds some of the photos, and says so. It is written to the path that you give, and never into
    the home, which keeps no photo. If the recipe trained the network, the page shows the attention maps of
    the old and the new model; drawing them needs torch and /proc.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each new class, named after the class.
        page: Path of the page; an existing file is replaced.
        config: Settings, as in `add_classes`.
        on_progress: Function that is called in this thread at every step and before each photo. If it raises
            an exception after the classes have been learnt, they stay learnt, but no page is written.
        isolate: Whether to learn and commit in worker processes; False does both in this process.
        wait: Whether to wait for another process that is changing the home.
        started: Value of time.monotonic() from which the receipt counts its seconds; None means now.

    Raises:
        ConfigError: The page cannot be written there, or jinja2 or matplotlib is not installed.
        LwmEdgeError: The increment fails for one of the reasons that `add_classes` lists.
    """
    home, photos, page = open_home(home), Path(photos), Path(page)
    check_page(page)
    config = resumed_settings(home, config or IncrementConfig())
    with _kept_open(home) as before:
        receipt = add_classes(
            home, photos, config, on_progress=on_progress, isolate=isolate, wait=wait, started=started
        )
        try:
            report = StepReporter("page", 1 + PAGE_STEPS, on_progress)
            report()
            moment = _moment(home, photos, config.class_name, receipt, before)
            facts = gather_facts(home, report=report)
            return Taught(receipt, render(home, page, facts, moment, report=report))
        except LwmEdgeError as error:  # the classes have been learnt anyway
            failed = f"the page was not written: {error.message}"
            return Taught(receipt.model_copy(update={"warnings": (*receipt.warnings, failed)}), None)


@contextmanager
def _kept_open(home: Home) -> Iterator[Bundle | None]:
    """Keeps the current bundle readable after a commit removes it; yields None on systems without /proc."""
    with inspection.open_regular(home.current().bundle) as file:
        path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        yield open_bundle(path) if path.exists() else None


def _moment(
    home: Home, folder: Path, class_name: str | None, receipt: IncrementReport, before: Bundle | None
) -> Moment:
    preprocessing = home.open_bundle().manifest.preprocessing
    shown = _some_photos(folder, class_name, preprocessing)
    pictures = [Picture(_png(pixels), name) for name, pixels in shown]
    note = _why_no_maps(receipt, before)
    if note is None and before is not None and shown:
        pictures = _with_maps(shown, before, home.open_bundle())
        note = (
            "The middle picture shows where the model looked before this increment, and the right one shows "
            "where it looks now. Both show the evidence for one old class, which is named below: the old "
            "class that the new model finds most likely. Where the two pictures differ, the model now "
            "relies on other parts of the photo."
        )
    classes = counted(len(receipt.new_classes), "class", "classes")
    return Moment(
        headline=f"The model learnt {classes} from {counted(receipt.photos_trained, 'photo', 'photos')} in "
        f"{receipt.seconds:.0f} seconds, with the recipe {receipt.recipe}: {receipt.recipe_reason}.",
        warnings=receipt.warnings,
        pictures=tuple(pictures),
        maps_note=note or "",
        mistakes=tuple(_mistakes(receipt, preprocessing)),
        mistakes_made=len(receipt.mistakes),
        held_back=receipt.photos_held_back,
    )


def _why_no_maps(receipt: IncrementReport, before: Bundle | None) -> str | None:
    """Says why maps of the old and the new model cannot be shown; None if they can."""
    if receipt.training is None:
        return (
            f"Recipe {receipt.recipe} did not train the network, so there are no maps to compare. These are "
            "some of the new photos, as the network sees them."
        )
    if not torch_is_installed():
        return "Attention maps need torch, which is not installed here. These are some of the new photos."
    if before is None or before.manifest.model_digest != receipt.parent_digest:
        return "The old model is gone, so its maps cannot be drawn. These are some of the new photos."
    return None


def _some_photos(
    folder: Path, class_name: str | None, preprocessing: Preprocessing
) -> list[tuple[str, Pixels]]:
    """Reads up to 24 photos: at most four of each class, from at most 24 classes."""
    classes = list_photos(folder, class_name).classes[:_PICTURES]
    each = max(1, min(_PER_CLASS, _PICTURES // max(1, len(classes))))
    found = []
    for one in classes:
        pixels: list[Pixels] = []
        for photo in one.files:
            if len(pixels) == each:
                break
            with suppress(PhotosError):  # already reported as skipped
                pixels.append(read_photo(photo, preprocessing))
        found += [(one.class_name, shown) for shown in pixels]
    return found


def _mistakes(receipt: IncrementReport, preprocessing: Preprocessing) -> Iterator[Picture]:
    for mistake in receipt.mistakes[:_MISTAKES]:
        with suppress(PhotosError):  # the photo may have been removed
            image = _png(read_photo(mistake.photo, preprocessing))
            yield Picture(image, mistake.class_name, taken_for=mistake.taken_for)


def _with_maps(shown: Sequence[tuple[str, Pixels]], before: Bundle, after: Bundle) -> list[Picture]:
    images = np.stack([pixels for _, pixels in shown])
    maps_before, maps_after, looked_for = _attention_maps(images, before, after)
    names = before.manifest.class_names
    return [
        Picture(
            _png(pixels),
            name,
            before=_png(_overlaid(pixels, maps_before[i])),
            after=_png(_overlaid(pixels, maps_after[i])),
            looked_for=names[looked_for[i]],
        )
        for i, (name, pixels) in enumerate(shown)
    ]


def _attention_maps(images: Pixels, before: Bundle, after: Bundle) -> tuple[Maps, Maps, list[int]]:
    """Computes both models' attention maps for the old class that the new model ranks highest.

    The paper defines the maps in equations 2 and 4.
    """
    import torch

    from ..learning.attention import attention_map
    from ..model.loading import load_network

    teacher, student = load_network(before), load_network(after)
    batch = torch.from_numpy(images)
    with torch.no_grad():
        (features_before, _), (features_after, logits) = teacher(batch), student(batch)
        b = logits[:, : teacher.classes].argmax(1)
        maps = [
            attention_map(features, network.attention_weight, b).numpy()
            for features, network in ((features_before, teacher), (features_after, student))
        ]
    return maps[0], maps[1], b.tolist()


def _overlaid(pixels: Pixels, attention: Maps) -> Pixels:
    """Colours a photo by an attention map, relative to the map's largest value."""
    from matplotlib import colormaps

    top = float(attention.max()) or 1.0
    size = (pixels.shape[1], pixels.shape[0])
    scaled = np.asarray(Image.fromarray(attention / top).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    colours = 255 * colormaps["inferno"](scaled)[..., :3]
    share = _MAP_SHARE * (0.35 + 0.65 * scaled[..., None])
    mixed: Pixels = ((1 - share) * pixels + share * colours).round().astype(np.uint8)
    return mixed


def _png(pixels: Pixels) -> str:
    """Returns a picture as a data URI."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
