"""Makes libraries compute in one thread in tests and in the processes that they start.

Only tests that use the fixture `every_core` have more threads.

The networks here are so small that a second thread gains little. When another process used the second
thread's core, waiting for that thread took four times the processor time of the work itself.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads numpy or torch
# Lets waiting threads sleep, as in the product's training process.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
