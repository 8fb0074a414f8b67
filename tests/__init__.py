"""Tests run on one thread, and so do the processes that they start, unless a test asks for `every_core`.

The networks here are so small that a second thread gains little; where another process has that core, waiting
for it took four times the processor time of the work itself.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads numpy or torch
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of several, as in the product's training process
