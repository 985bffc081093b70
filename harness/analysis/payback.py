"""After how many loads a conversion has paid for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate, estimate
from harness.records.sample import Sample
from harness.scenarios import CONVERSION, FULL_LOAD, SCENARIOS

Clock = Callable[[Sample], float | None]
PAIR = SCENARIOS[FULL_LOAD].pair
CONVERT, CONVERT_AND_VERIFY = "convert", "convert-and-verify"


@dataclass(frozen=True)
class Payback:
    """What a conversion costs and what each later load saves, in s, within blocks."""

    cost: Estimate
    saving: Estimate

    @property
    def loads(self) -> Estimate | None:
        """After how many loads it has paid; None where no load is known to save anything.

        The interval reaches from the best ends of both for the conversion to the worst.
        """
        cost, saving = self.cost, self.saving
        if not (cost.low and cost.high and saving.low and saving.high) or saving.low <= 0:
            return None
        return Estimate(
            cost.median / saving.median, cost.low / saving.high, cost.high / saving.low, cost.count
        )

    @property
    def never(self) -> bool:
        """Whether it is known that no load saves anything."""
        return self.saving.high is not None and self.saving.high <= 0


def payback(
    clock: Clock,
    conversions: Iterable[Sample],
    pickle: Iterable[Sample],
    safetensors: Iterable[Sample],
) -> Payback | None:
    """Return the payback of valid samples; None where there are too few of them."""
    base = {sample.block: clock(sample) for sample in safetensors}
    savings = [
        slow - fast
        for sample in pickle
        if (fast := base.get(sample.block)) and (slow := clock(sample))
    ]
    cost = estimate([seconds for sample in conversions if (seconds := clock(sample)) is not None])
    saving = estimate(savings)
    return Payback(cost, saving) if cost and saving else None


def payback_of(cell: MeasuredCell, loads: MeasuredCell, converter: str = CONVERT) -> Payback | None:
    """Return the payback of one converter's cell by the loads of another cell, to `ready`."""
    arms = cell.arm(converter), loads.arm(PAIR.compared), loads.arm(PAIR.reference)
    if not all(arms):
        return None
    samples = [of.valid(arm) for of, arm in zip((cell, loads, loads), arms, strict=True) if arm]
    return payback(lambda sample: sample.ready_s, *samples)


def payback_frame(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Return a row for each converted checkpoint and cache state that was also loaded.

    Costs and savings are in s; a number of loads is None where the conversion is not known to pay.
    """
    loads = {
        (cell.checkpoint, cell.cache_state): cell
        for cell in cells
        if cell.scenario == FULL_LOAD and cell.device == "cpu"
    }
    rows = []
    for cell in (cell for cell in cells if cell.scenario == CONVERSION):
        load = loads.get((cell.checkpoint, cell.cache_state))
        paid = payback_of(cell, load) if load else None
        if not load or not paid:
            continue
        both = payback_of(cell, load, CONVERT_AND_VERIFY)
        rows.append(
            {
                "checkpoint": cell.checkpoint,
                "cache_state": cell.cache_state,
                "convert_s": paid.cost.median,
                "convert_and_verify_s": both.cost.median if both else None,
                "saving_s": paid.saving.median,
                "saving_low_s": paid.saving.low,
                "saving_high_s": paid.saving.high,
                "pairs": paid.saving.count,
                "loads_to_pay_conversion": _whole(paid),
                "loads_to_pay_both": _whole(both),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame.columns if name.startswith("loads_")})


def _whole(paid: Payback | None) -> int | None:
    return math.ceil(paid.loads.median) if paid and paid.loads else None
