"""Runs a network's blocks in bfloat16 on request; everything around them stays in float32.

The weights stay in float32 too: torch's autocast gives convolutions a copy in bfloat16. The head's outputs,
attention maps, losses and statistics would suffer from 8 bits of precision, and gain nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, Protocol

import torch

from .terms import Precision

_PROCESSOR = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them on x86 and Arm
_FIRST_CAPABILITY = (8, 0)  # the lowest compute capability of NVIDIA GPUs with bfloat16


class HasPrecision(Protocol):
    """Stands for anything whose blocks compute in a given precision, such as a `Network`."""

    precision: Precision


def has_bfloat16(device: torch.device) -> bool:
    """Tells whether a GPU supports bfloat16, or a processor has instructions for it.

    torch has no public call that asks a processor for its instructions, so Linux's list of them is read.
    On other systems, a processor is assumed to have no instructions for bfloat16.
    """
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported is also true where bfloat16 is emulated, which is slower than float32
        return torch.cuda.get_device_capability(device) >= _FIRST_CAPABILITY
    try:
        listed = _PROCESSOR.read_text(errors="replace")
    except OSError:
        return False
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", listed, re.MULTILINE)
    return bool(found and _INSTRUCTIONS & set(found[1].split()))


def usable_precisions(
    setting: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> tuple[Precision, ...]:
    """Lists the precisions that a setting allows on a device, starting with the most exact."""
    if setting != "auto":
        return (setting,)
    return ("float32", "bfloat16") if has_bfloat16(device) else ("float32",)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Makes torch compute in a given precision within the `with` statement."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def computing_in(precision: Precision, *networks: HasPrecision) -> Iterator[None]:
    """Makes networks run their blocks, forward and backward, in a given precision within the `with` block."""
    before = [network.precision for network in networks]
    for network in networks:
        network.precision = precision
    try:
        yield
    finally:
        for network, own in zip(networks, before, strict=True):
            network.precision = own
