"""Defines what settings and manifest share, in a module of its own so that `--help` loads quickly."""

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
