"""A library whose import takes a known time."""

import time

IMPORT_S = 0.4
_end = time.monotonic() + IMPORT_S
while time.monotonic() < _end:
    pass
