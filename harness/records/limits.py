"""Limits that both a run and its page speak of, where a run has not recorded its own."""

from __future__ import annotations

BUSY_AT_MOST = 0.10
"""Largest share of the usable cores' time that other processes may use while a sample is taken.

With one of two cores taken, ratios of loaders came out wrong by a factor of two; below a tenth no
shift was found.
"""

COLD_AT_MOST = 0.001
"""Largest share of a file that may be resident before a cold load."""
WARM_AT_LEAST = 0.999
"""Smallest share of a file that must be resident before a warm load."""
STORAGE_AT_LEAST = 0.99
"""Smallest share of the tensors' bytes that a cold load must have fetched from storage; what is
left is the most that a warm one that writes may.
"""
RUN_BYTES_AT_MOST = 2_000_000
"""Bytes that a contributed run may take, packed."""
BUSY_VARIABLE = "WEIGHBRIDGE_BUSY_AT_MOST"
"""The variable of the environment that holds another share."""
