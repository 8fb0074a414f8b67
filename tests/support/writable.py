"""Says which formats of photos can be written here, because the oldest supported Pillow cannot write all."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from PIL import Image

if find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener

    register_heif_opener()
Image.init()


def is_writable(name: str) -> bool:
    """Returns whether Pillow can write a format here."""
    return name in Image.SAVE


def needs_writer_of(name: str) -> pytest.MarkDecorator:
    """Skips a test if Pillow cannot write a format."""
    return pytest.mark.skipif(not is_writable(name), reason=f"nothing here writes {name}")
