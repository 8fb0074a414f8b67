"""Prepares a photo in whatever form an app has it: a path, bytes, an open file, an image or an array.

All forms go through `pixels.preprocess`. Bytes are read like a file, within the same limits, so that a
hostile photo from the internet can do no more harm than one on the disk.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import storage
from ..errors import ConfigError, PhotosError, first_line, ran_out_of_memory
from ..records import AnyPath, printable
from .guard import MAX_FILE_BYTES, check_pixels, wait_on
from .pixels import MODES_WITHOUT_RANGE, Pixels, preprocess
from .preprocessing import Preprocessing
from .reading import read_photo

AnyPhoto = AnyPath | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
_ACCEPTED = (
    "a path, bytes, a file opened in binary mode, a PIL image, or a NumPy array of uint8 (RGB [H, W, 3], "
    "RGBA [H, W, 4] or grey [H, W])"
)
_CHANNELS = (1, 3, 4)
_SHARED_MEMORY = Path("/dev/shm")  # a folder that Linux keeps in memory


def prepare_photo(
    photo: AnyPhoto, preprocessing: Preprocessing, on_wait: Callable[[], None] = wait_on
) -> Pixels:
    """Prepares a photo for the network as every command does: upright, in RGB, scaled and cropped.

    Args:
        photo: Path of a photo in a known format, the content of such a file as bytes, a file opened in binary
            mode, a PIL image, or an array: uint8 (RGB [H, W, 3], RGBA [H, W, 4] or grey [H, W]) or, for
            16-bit grey, uint16 [H, W]. OpenCV's arrays are BGR: give `frame[..., ::-1]`.
        preprocessing: Preprocessing of the model, such as `Classifier.preprocessing`.
        on_wait: Function that is called a few times a second while the photo is read. What it raises ends the
            reading, and is passed on unchanged.

    Returns:
        RGB [image_size, image_size, 3] uint8; a stack of these is what `Classifier.outputs` takes.

    Raises:
        ConfigError: The photo is not in a form that is accepted; the message says what to give.
        PhotosError: The photo cannot be read, is damaged, costs too much, or does not fit into memory.
        ResourceError: Memory or processes ran out, so that the process for costly photos cannot be started.
    """
    if isinstance(photo, str | PathLike):
        return read_photo(Path(photo), preprocessing, on_wait=on_wait)
    if isinstance(photo, np.ndarray):
        return _prepared(_image_of(photo), preprocessing)
    if isinstance(photo, Image.Image):
        return _prepared(photo, preprocessing)
    with _as_file(_content_of(photo)) as path:
        return read_photo(path, preprocessing, on_wait=on_wait)


def photos_in(given: AnyPhoto | Iterable[AnyPhoto]) -> list[AnyPhoto]:
    """Lists the photos that were given: one, or several of any kind; an array [B, H, W, 3] is a batch.

    Raises:
        ConfigError: Something among them is not a photo; the message says what is accepted.
    """
    if is_photo(given):
        return [given]  # type: ignore[list-item]
    is_several = isinstance(given, Iterable) and not isinstance(given, dict)
    if not is_several or (isinstance(given, np.ndarray) and given.ndim != 4):
        raise ConfigError(f"a photo is {_ACCEPTED}, not {_kind(given)}; give one, or a list of them")
    photos: list[Any] = list(given)  # type: ignore[arg-type]
    for number, photo in enumerate(photos):
        if not is_photo(photo):
            raise ConfigError(f"a photo is {_ACCEPTED}; item {number} of the list is {_kind(photo)}")
    return photos


def is_photo(given: object) -> bool:
    """Tells whether something is meant as one photo, in any form that is accepted."""
    if isinstance(given, np.ndarray):
        return given.ndim in (2, 3)
    is_content = isinstance(given, str | PathLike | bytes | bytearray | memoryview | Image.Image)
    return is_content or callable(getattr(given, "read", None))


def name_of(photo: object) -> str:
    """Names a photo that has no path: an open file by its name, anything else as a photo in memory."""
    name = getattr(photo, "name", None)
    if name == "<stdin>":
        return "standard input"
    return printable(Path(name)) if isinstance(name, str) and name else "a photo in memory"


def _kind(given: object) -> str:
    return (
        f"an array {list(given.shape)}"
        if isinstance(given, np.ndarray)
        else f"an object of type {type(given).__name__}"
    )


def _prepared(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Prepares a copy of an image, so that the caller's image stays as it is."""
    if image.mode in MODES_WITHOUT_RANGE:
        raise ConfigError(f"this image has the mode {image.mode!r}; convert it to RGB or to 8-bit grey")
    if not all(image.size):
        raise PhotosError("has no pixels")
    check_pixels(image)
    try:
        return preprocess(image.copy(), preprocessing.image_size, preprocessing.resize_size)
    except MemoryError:
        raise PhotosError("does not fit into memory") from None
    except Exception as error:  # what Pillow's decoders raise, if the image was not loaded yet
        raise PhotosError(f"is damaged ({first_line(error)})") from None


def _image_of(array: NDArray[Any]) -> Image.Image:
    is_deep_grey = array.dtype == np.uint16 and array.ndim == 2
    is_colour = array.ndim == 3 and array.shape[2] in _CHANNELS
    if not (is_deep_grey or (array.dtype == np.uint8 and (array.ndim == 2 or is_colour))):
        raise ConfigError(
            f"an array of {array.dtype} {list(array.shape)} is not a photo; give uint8: RGB [H, W, 3], RGBA "
            "[H, W, 4] or grey [H, W]"
        )
    if not array.size:
        raise PhotosError("has no pixels")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _content_of(photo: object) -> bytes:
    """Returns the content of a photo that was given as bytes or as an open file.

    Raises:
        ConfigError: The photo is neither, or the file is closed or does not give bytes.
        PhotosError: The file cannot be read.
    """
    if isinstance(photo, bytes | bytearray | memoryview):
        try:
            return bytes(photo)
        except ValueError as error:
            raise ConfigError(f"this memoryview cannot be read: {first_line(error)}") from None
    read = getattr(photo, "read", None)
    if not callable(read):
        raise ConfigError(f"a photo is {_ACCEPTED}, not {_kind(photo)}")
    if isinstance(photo, io.TextIOBase):
        raise ConfigError("this file was opened in text mode; open it in binary mode, with open(path, 'rb')")
    try:
        content = read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror or first_line(error)})") from None
    except ValueError as error:  # the file is closed
        raise ConfigError(f"this file cannot be read: {first_line(error)}") from None
    except Exception as error:  # what compressed and remote files raise
        if ran_out_of_memory(error):
            raise
        raise PhotosError(f"cannot be read ({first_line(error)})") from None
    if not isinstance(content, bytes):
        raise ConfigError(f"a file must give bytes, not {_kind(content)}")
    return content


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """Gives content a path, which `decoder` can open too; on Linux, the content stays in memory."""
    if not _children_may_open_files():
        # Windows cannot open a self-deleting file twice.
        with storage.temporary_folder(inside=_folder_in_memory(len(content))) as folder:
            path = folder / "photo"
            try:
                path.write_bytes(content)
            except OSError as error:
                raise storage.temporary_failure(folder, error.strerror) from error
            yield path
        return
    with os.fdopen(os.memfd_create("photo"), "wb") as memory:
        memory.write(content)
        memory.flush()
        yield Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")


def _folder_in_memory(needed_bytes: int) -> Path | None:
    """Returns a folder that the system keeps in memory, if there is one with enough room."""
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return None
    return _SHARED_MEMORY if shutil.disk_usage(_SHARED_MEMORY).free > needed_bytes else None


def _children_may_open_files() -> bool:
    """Returns whether a process that this one starts may open this one's files through /proc.

    It may not if this process has given up privileges, such as a service that was started by root: the system
    then makes root the owner of the process's folder in /proc.
    """
    try:
        return hasattr(os, "memfd_create") and Path("/proc/self/fd").stat().st_uid == os.geteuid()
    except OSError:  # there is no /proc
        return False
