"""Records when the command started; `__main__` imports this module before the rest of lwm-edge."""

import time

STARTED = time.monotonic()
