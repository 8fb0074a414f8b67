"""Defines what the settings and the manifest share, in a module of its own so that `--help` loads quickly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

MAX_CAPACITY = 65_536

Activation = Literal["sigmoid", "softmax"]
Precision = Literal["float32", "bfloat16"]
Permission = Literal["add-photos", "undo", "other-devices"]
"""Change that a device may make only if the vendor permits it: more photos of shipped classes, a return to
the model before the latest change, or classes that other devices learnt."""

Line = Annotated[str, Field(min_length=1, max_length=200)]
Paragraph = Annotated[str, Field(min_length=1, max_length=1000)]

SHARES = (0.8, 0.9, 0.95, 0.98, 0.99)
"""Shares of known photos that a threshold for unknown objects can keep."""

KEPT = 0.95
"""Share of known photos to keep, unless another one is asked for."""
