"""Limits that both a run and its page speak of, where a run has not recorded its own."""

from __future__ import annotations

BUSY_AT_MOST = 0.10
"""Largest share of the usable cores' time that other processes may use while a sample is taken.

With one of two cores taken, ratios of loaders came out wrong by a factor of two; below a tenth no
shift was found.
"""
BUSY_VARIABLE = "WEIGHBRIDGE_BUSY_AT_MOST"
"""The variable of the environment that holds another share."""
