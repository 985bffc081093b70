"""The search for the smallest memory limit, and what is said of memory: pure functions, made-up
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import test_memory_limit as scenario
from harness.analysis.claim_findings import Recorded, RuleOutcome
from harness.analysis.claims import claims
from harness.analysis.load_rules import MemoryLimitTest
from harness.analysis.memory_limits import (
    FACTORS,
    TIMEOUT_AT_LEAST_S,
    NextTry,
    floor_of,
    limit_at,
    next_try,
    step_of,
    tries_of,
)
from harness.analysis.memory_use import limits_of, memory_to_ask_for, proportional_in_all, stages_of
from harness.analysis.run_cells import cells_of, shortfalls
from harness.measure.blocks import Limits
from harness.measure.limit_search import search_limits
from harness.records.sample import Sample
from harness.report.section_writer import SectionWriter
from harness.report.sections import memory_limit
from harness.report.terminal import cell_table, run_summary
from harness.run.options import parse
from harness.scenarios import LIMIT, MEMORY_LIMIT, MODEL_STAYS, STAYS, WHOLE_PROCESS, WORKERS
from tests.helpers import make_sample, recorded_run

SIZE = 500_000_000
Outcome = Callable[[int], str]


def taken(
    limit: int | None, outcome: str = "loaded", loader: str = "torch-load", **figures: Any
) -> Sample:
    """Return a sample of a load under a limit that ended like this."""
    loaded = outcome == "loaded"
    fields = {
        "scenario": MEMORY_LIMIT,
        "part": LIMIT,
        "checkpoint": "gpt2",
        "cache_state": "cold",
        "bytes": SIZE,
        "loader": loader,
        "memory_limit_bytes": limit,
        "valid": loaded,
        "reason": None if loaded else outcome,
        "detail": None if loaded else "by the kernel",
        "ready_s": 1.0 if loaded else None,
        "content_ok": True if loaded else None,
        "sample_s": 1.5,
    }
    return make_sample(**(fields | figures))


def needs(smallest: float, most: str = "killed") -> Outcome:
    """Return how a load ends that needs this many times the checkpoint."""
    return lambda limit: "loaded" if limit >= smallest * SIZE else most


def search(ends: Outcome, loader: str = "torch-load", **free: Any) -> list[Sample]:
    """Return every sample of a whole search of one loader; `free` are figures of the load without a
    limit.
    """
    samples: list[Sample] = []
    while upcoming := next_try(samples, SIZE, 1):
        limit = upcoming.limit_bytes
        figures = free if limit is None else {}
        samples.append(taken(limit, "loaded" if limit is None else ends(limit), loader, **figures))
        assert len(samples) < 50
    return samples


@pytest.mark.parametrize("smallest", [0.001, 0.013, 0.33, 0.999, 1.02, 1.36, 2.02, 4.7])
def test_a_search_finds_the_limit_to_a_step(smallest: float) -> None:
    samples = search(needs(smallest), anonymous_bytes=int(smallest * SIZE))
    floor = floor_of(samples, SIZE)
    assert floor is not None
    assert smallest * SIZE <= floor.limit_bytes < smallest * SIZE + step_of(SIZE)
    assert floor.failed_bytes is None or floor.failed_bytes < smallest * SIZE
    assert len(samples) <= 16, "each try costs a load"


def test_a_wrong_guess_leads_to_the_same_limit() -> None:
    guesses: list[dict[str, Any]] = [
        {},
        {"anonymous_bytes": 3 * SIZE},
        {"group_peak_bytes": int(1.6 * SIZE)},
    ]
    floors = [floor_of(search(needs(0.61), **guess), SIZE) for guess in guesses]
    assert len({floor.limit_bytes for floor in floors if floor}) == 1
    assert None not in floors


def test_a_limit_that_is_enough_only_once_is_not() -> None:
    edge, seen = limit_at(1.02, SIZE), list[int]()

    def flaky(limit: int) -> str:
        seen.append(limit)
        return "loaded" if limit > edge or (limit == edge and seen.count(edge) == 1) else "killed"

    floor = floor_of(search(flaky, anonymous_bytes=SIZE), SIZE)
    assert seen.count(edge) == 2
    assert floor is not None and floor.limit_bytes == edge + step_of(SIZE)


def test_every_loader_is_timed_at_the_named_limits() -> None:
    samples = search(needs(0.02))
    limits = [attempt.limit_bytes for attempt in tries_of(samples)]
    assert limits[: len(FACTORS)] == [limit_at(factor, SIZE) for factor in FACTORS]
    assert not step_of(SIZE) % 4096 and step_of(SIZE) < 0.0201 * SIZE


def test_a_limit_above_which_one_failed_is_not_tried() -> None:
    limits = [attempt.limit_bytes for attempt in tries_of(search(needs(1.36)))]
    assert limit_at(1.1, SIZE) in limits
    assert limit_at(1.0, SIZE) not in limits and limit_at(0.5, SIZE) not in limits


def test_a_loader_that_never_loads_is_given_up() -> None:
    failing = [taken(None, "raised")] * 2
    assert next_try(failing[:1], SIZE, 1) is not None
    assert next_try(failing, SIZE, 1) is None
    assert floor_of(failing, SIZE) is None


def test_a_hung_try_has_ten_times_the_time_of_a_free_one() -> None:
    slow = next_try([taken(None, sample_s=2.0)], SIZE, 1)
    quick = next_try([taken(None, sample_s=0.1)], SIZE, 1)
    assert slow and slow.timeout_s == 20.0
    assert quick and quick.timeout_s == TIMEOUT_AT_LEAST_S


def test_a_busy_machine_hides_no_limit() -> None:
    busy = taken(limit_at(2, SIZE), valid=False, reason="busy")
    assert [attempt.loaded for attempt in tries_of([busy])] == [True]
    assert tries_of([taken(limit_at(2, SIZE), "server-died")]) == []


def test_a_search_goes_on_where_it_was_cut_off() -> None:
    done = search(needs(1.02), anonymous_bytes=SIZE)
    asked: list[int | None] = []

    def take(name: str, block: int, _: int, upcoming: NextTry) -> Sample:
        limit = upcoming.limit_bytes
        asked.append(limit)
        return taken(limit, "loaded" if limit is None else needs(1.02)(limit), name, block=block)

    def resumed(samples: Sequence[Sample]) -> list[Sample | str]:
        return list(
            search_limits(
                ["torch-load"],
                samples,
                Limits(1, float("inf"), float("inf")),
                lambda _: ["torch-load"],
                lambda of_arm: next_try(of_arm, SIZE, 1),
                take,
            )
        )

    assert resumed(done) == ["precision"]
    *rest, why = resumed(done[:4])
    assert why == "precision" and len(rest) == len(done) - 4 == len(asked)


def test_a_search_ends_with_its_time() -> None:
    spent = search_limits(
        ["torch-load"],
        [taken(None)],
        Limits(1, 1.0, 1.0),
        lambda _: ["torch-load"],
        lambda _: pytest.fail("nothing is asked for any more"),
        lambda *_: pytest.fail("nothing is tried any more"),
    )
    assert list(spent) == ["budget"]


def test_what_to_ask_for_is_told_by_the_closest_tries() -> None:
    process: dict[str, Any] = {
        "peak_rss_bytes": 700_000_000,
        "peak_growth_bytes": SIZE,
        "mapped_bytes": 0,
    }
    plain = make_sample(bytes=SIZE, scenario="full-load", **process)
    by_plain = memory_to_ask_for([plain])
    assert by_plain is not None and by_plain.by == "plain loads"
    assert by_plain.least_bytes == 700_000_000
    assert by_plain.ask_bytes == 770_000_000
    limited = search(needs(1.02), anonymous_bytes=SIZE, **process)
    by_limit = memory_to_ask_for(limited)
    assert by_limit is not None and by_limit.by == "limits"
    assert by_limit.least_bytes == 200_000_000 + limit_at(1.02, SIZE)
    whole = search(needs(1.5), anonymous_bytes=SIZE, part=WHOLE_PROCESS, **process)
    whole = [taken(s.memory_limit_bytes, s.reason or "loaded", part=WHOLE_PROCESS) for s in whole]
    by_whole = memory_to_ask_for([*limited, *whole])
    assert by_whole is not None and by_whole.by == "whole processes"
    assert by_whole.least_bytes == limit_at(1.5, SIZE)
    assert memory_to_ask_for([]) is None


def test_a_mapped_load_is_given_room_for_its_pages() -> None:
    mapped = make_sample(
        bytes=SIZE, peak_rss_bytes=700_000_000, peak_growth_bytes=SIZE, mapped_bytes=SIZE
    )
    need = memory_to_ask_for([mapped])
    assert need is not None
    assert need.least_bytes == 200_000_000
    assert need.ask_bytes == 770_000_000


def test_the_claim_that_loading_doubles_memory_is_judged() -> None:
    (claim,) = [claim for claim in claims() if claim.id == "F7"]
    rules = [test for test in claim.tests if isinstance(test, MemoryLimitTest)]
    by_loader = {
        "safetensors-load-bytes": 2.02,
        "torch-load": 1.02,
        "safetensors-pread": 1.02,
        "safetensors-load-file": 0.03,
        "torch-load-mmap": 0.03,
    }
    samples = [
        sample for name, need in by_loader.items() for sample in search(needs(need), loader=name)
    ]
    run = Recorded.of("a-run", {}, samples)
    outcomes = [rule.judge(run, claim.figure).outcome for rule in rules]
    holds, fails = RuleOutcome.HOLDS, RuleOutcome.FAILS
    assert outcomes == [holds, holds, holds, fails, fails, fails]
    nothing = rules[0].judge(Recorded.of("another", {}, []), claim.figure)
    assert nothing.outcome == RuleOutcome.NOT_MEASURED


def _written(folder: Path, samples: Sequence[Sample]) -> str:
    writer = SectionWriter(folder, "", 1)
    return "\n\n".join(memory_limit.section(writer, recorded_run(folder, samples)))


def test_the_page_says_what_to_ask_for_and_what_thrashing_costs(tmp_path: Path) -> None:
    free: dict[str, Any] = {"peak_rss_bytes": SIZE, "peak_growth_bytes": SIZE, "mapped_bytes": 0}
    samples = search(needs(1.02), anonymous_bytes=SIZE, **free)
    mapped = search(needs(0.03), "safetensors-load-file", anonymous_bytes=0, **free)
    text = _written(tmp_path, samples + mapped)
    assert "ask for" in text and "| torch-load |" in text
    assert "does not fail when memory is short" in text
    assert (tmp_path / "figures/memory-limit-gpt2-limit.svg").is_file()
    (table,) = (tmp_path / "tables").glob("*.csv")
    assert "killed" in table.read_text(encoding="utf-8")
    (cell,) = cells_of({}, samples + mapped)
    assert [row.loader for row in limits_of(cell)] == ["safetensors-load-file", "torch-load"]
    assert "510" in cell_table(samples)
    assert "killed" not in run_summary({}, samples).rpartition("invalid samples")[2]
    assert shortfalls({}, [cell]) == []
    assert "not known" in str(shortfalls({}, cells_of({}, samples[:3])))


def test_the_page_tells_what_stays_and_what_is_shared(tmp_path: Path) -> None:
    stage = {"anonymous_bytes": 1, "mapped_bytes": SIZE, "page_cache_bytes": None}
    stays = {"after_load": stage, "after_use": stage, "after_delete": stage | {"mapped_bytes": 0}}
    left = [taken(None, part=STAYS, stays=stays) for _ in range(3)]
    shared = [
        taken(None, part=WORKERS, ranks=count, block=block, per_rank=[{"pss_bytes": 7}] * count)
        for count in (1, 4)
        for block in range(6)
    ]
    text = _written(tmp_path, left + shared)
    assert "read-only" in text, "a stage that none reached is not made up"
    assert "4 processes" in text
    assert set(stages_of(left)) == {"after_load", "after_use", "after_delete"}
    assert stages_of(left)["after_use"].page_cache_bytes is None
    assert proportional_in_all([sample for sample in shared if sample.ranks == 4]) == 28


def test_a_profile_asks_of_memory_what_it_has_time_for() -> None:
    default = scenario.plan(parse({}))
    assert {cell.part for cell in default} == {LIMIT, STAYS}
    assert {cell.checkpoint for cell in default} == {"all-minilm-l6-v2"}
    assert set(default.values()) == {tuple(default[next(iter(default))])}
    full = scenario.plan(parse({"profile": "full"}))
    assert {cell.ranks for cell in full if cell.part == WORKERS} == {1, 2, 4, 8}
    assert any(cell.part == MODEL_STAYS and cell.checkpoint == "gpt2" for cell in full)
    assert {cell.cache_state for cell in full} == {"cold"}
    assert scenario.plan(parse({"cache_states": "warm"})) == {}
    assert {cell.part for cell in scenario.plan(parse({"parts": "workers"}))} == {WORKERS}
