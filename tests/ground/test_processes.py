"""An inbox and the processes that it starts run at low priority."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

_SHOW = "import os, psutil; print(os.nice(0), int(getattr(psutil.Process().ionice(), 'ioclass', 0)))"
_LOWER = f"""
import subprocess, sys
from lwm_edge._processes import lower_priority
lower_priority()
lower_priority()
print(subprocess.run([sys.executable, "-c", {_SHOW!r}], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other priorities")
def test_an_inbox_and_what_it_starts_give_way_to_other_programs() -> None:
    done = subprocess.run([sys.executable, "-c", _LOWER], check=True, capture_output=True, text=True)
    niceness, io_class = map(int, done.stdout.split())
    before = psutil.Process().nice()
    assert niceness == max(10, before)
    assert io_class == int(psutil.IOPRIO_CLASS_IDLE)
