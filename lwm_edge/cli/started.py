"""Notes when the command started, so `__main__` imports it first."""

import time

STARTED = time.monotonic()
