"""Tests run on one thread, and so do the processes that they start, unless a test asks for `every_core`.

The networks here are so small that a second thread gains little. If another process used that core, waiting
for it took four times the processor time of the work itself.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads numpy or torch
# Threads wait asleep, as in the product's training process.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
