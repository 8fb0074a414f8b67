"""Notes when the command started; `__main__` imports this before the package's other modules."""

import time

STARTED = time.monotonic()
