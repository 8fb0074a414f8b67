"""Defines types, limits and defaults that others share; this module is small to keep `--help` fast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

MAX_CAPACITY = 65_536

ARCHITECTURE_KEY = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""Form of the key of an architecture."""

Activation = Literal["sigmoid", "softmax"]
Precision = Literal["float32", "bfloat16"]
Permission = Literal["add-photos", "undo", "other-devices"]
"""Name of a change that a device may make only if the vendor permits it: learning from more photos of shipped
classes, returning to the model before the latest change, or taking classes that other devices learnt (which
no command does yet)."""

Line = Annotated[str, Field(min_length=1, max_length=200)]
Paragraph = Annotated[str, Field(min_length=1, max_length=1000)]

SHARES = (0.8, 0.9, 0.95, 0.98, 0.99)
"""Shares of known photos that a threshold for unknown objects can keep."""

KEPT = 0.95
"""Share of known photos that is kept by default."""

TOP_K = 3
"""Number of classes that are named for each photo by default."""

SECONDS_BETWEEN_FRAMES = 1.0
"""Default time between two frames of a camera or a video that are classified."""

QUIET_SECONDS = 60.0
"""Default time for which a folder in an inbox must stay unchanged before its photos are used."""
