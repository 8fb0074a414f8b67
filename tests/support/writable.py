"""Says which formats of photos this environment can write: the oldest Pillow knows fewer."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from PIL import Image

if find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener

    register_heif_opener()
Image.init()


def is_writable(name: str) -> bool:
    """Returns whether Pillow writes a format here."""
    return name in Image.SAVE


def needs_writer_of(name: str) -> pytest.MarkDecorator:
    """Skips a test where Pillow does not write a format."""
    return pytest.mark.skipif(not is_writable(name), reason=f"nothing here writes {name}")
