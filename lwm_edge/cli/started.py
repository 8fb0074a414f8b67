"""Notes when the command started; `__main__` imports this before anything else."""

import time

STARTED = time.monotonic()
