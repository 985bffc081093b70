"""How figures were measured, as the end of every page says it."""

from __future__ import annotations

_UNTIL_PRECISE = "A cell's arms take turns in blocks, in random order from a recorded seed, until its ratios are known narrowly enough or its time is spent."
_SIDES = (
    "Every block holds all environments: of each loader one after the other, in random order, and in the next block in the reverse order, so that what drifts "
    "falls on each alike. Cells are gone through several times, each time with servers started anew."
)
METHOD = f"""
- Each sample is one load in a fresh process, forked from a server that has imported its libraries, after a rehearsal on a tiny checkpoint.
- The cache state is set and then proved before each load, and the bytes read from storage must agree with it.
- The content of every tensor is checked after the clocks have stopped; a sample that fails a check is counted, and enters no figure.
- {_UNTIL_PRECISE}
- A figure is a median with its exact order-statistic interval: no distribution is assumed, nothing is pooled, no outlier is dropped.
""".strip()
NIGHT_METHOD = METHOD.replace(_UNTIL_PRECISE, _SIDES)
