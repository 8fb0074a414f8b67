"""Says which files are left out, and why: photos one by one, but other files of one kind in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..wording import counted
from .listing import LISTED, printable_text

_PHOTO_ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
_PHOTO_ENDINGS |= {".avif", ".heic", ".heif", ".hif"}
LeftOut = tuple[Path, str]
"""Path of a file, and the reason why it is left out, worded to follow the file's name."""


def has_photo_ending(path: Path) -> bool:
    """Tells whether a file is named like a photo that can be read."""
    return path.suffix.lower() in _PHOTO_ENDINGS


def left_out_lines(
    files: Iterable[LeftOut], shown: Callable[[Path], str], others: Sequence[str] = (), most: int = LISTED
) -> list[str]:
    """Writes at most `most` lines about files that are left out, and one that counts the rest.

    Photos come first: a phone may put a file of another kind beside each photo, and lines about those files
    would hide one about a damaged photo.

    Args:
        files: Files with the reasons; photos are listed in this order.
        shown: Function that returns a path as it is shown to people.
        others: Lines about things other than files, such as folders.
        most: Largest number of lines, without the one that counts the rest.
    """
    photos, kinds = list[tuple[str, int]](), dict[tuple[str, str], list[Path]]()
    for path, reason in files:
        if has_photo_ending(path):
            photos.append((f"{shown(path)} {reason}", 1))
        else:
            kinds.setdefault((path.suffix.lower(), reason), []).append(path)
    of_kinds = [(_line(paths, reason, shown), len(paths)) for (_, reason), paths in kinds.items()]
    lines = [*photos, *((line, 1) for line in others), *of_kinds]
    rest = sum(count for _, count in lines[most:])
    more = [f"and {counted(rest, 'more file', 'more files')}"] if rest else []
    return [line for line, _ in lines[:most]] + more


def _line(paths: list[Path], reason: str, shown: Callable[[Path], str]) -> str:
    """Says why files of one kind are left out, and names the first."""
    line, ending = f"{shown(paths[0])} {reason}", printable_text(paths[0].suffix)
    if len(paths) == 1:
        return line
    one, many = (f"that ends in {ending}", f"that end in {ending}") if ending else ("without an ending",) * 2
    rest = counted(len(paths) - 1, f"more file {one}", f"more files {many}")
    return f"{line}; the same is true of {rest}"
