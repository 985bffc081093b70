"""Validity: each reason comes out for its cause and for nothing else, before any statistic sees the
sample.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from harness.measure.validity import Judgement, judge
from harness.records.sample import REASONS, SCHEMA, Sample
from tests.helpers import make_sample

SIZE = 1_000_000
SERVER = ("raised", "exited", "killed", "hung", "server-died", "unprepared")
"""What the server and the orchestrator say themselves."""

VALID = Judgement(valid=True, reason=None, detail=None)


def _answer(**overrides: Any) -> dict[str, Any]:
    return {"content_ok": True, "storage_read_bytes": SIZE} | overrides


@pytest.mark.parametrize("resident", [0.0, 0.001])
@pytest.mark.parametrize("read", [990_000, SIZE, 3 * SIZE])
def test_a_cold_sample_counts_when_nothing_was_resident(resident: float, read: int) -> None:
    assert judge("cold", resident, SIZE, _answer(storage_read_bytes=read)) == VALID


@pytest.mark.parametrize("resident", [0.999, 1.0])
def test_a_warm_sample_counts_when_everything_was_resident(
    resident: float,
) -> None:
    assert judge("warm", resident, SIZE, _answer(storage_read_bytes=0)) == VALID


@pytest.mark.parametrize(
    ("state", "resident", "answer", "reason", "figure"),
    [
        ("cold", 0.00101, {}, "not-cold", "0.0010 of the file"),
        ("cold", 1.0, {}, "not-cold", "1.0000 of the file"),
        (
            "cold",
            0.0,
            {"storage_read_bytes": 989_999},
            "storage-short",
            "989999 bytes read from storage for 1000000",
        ),
        ("cold", 0.0, {"storage_read_bytes": 0}, "storage-short", "0 bytes read from storage"),
        ("cold", 0.0, {"storage_read_bytes": None}, "storage-unknown", "/proc/self/io"),
        ("cold", 0.0, {"content_ok": False}, "wrong-content", "name, dtype, shape or bytes"),
        ("warm", 0.99899, {"storage_read_bytes": 0}, "not-warm", "0.9990 of the file"),
        ("warm", 0.0, {"storage_read_bytes": 0}, "not-warm", "0.0000 of the file"),
        ("warm", 1.0, {"storage_read_bytes": 4096}, "storage-read", "4096 bytes read"),
        (
            "warm",
            1.0,
            {"storage_read_bytes": 0, "content_ok": False},
            "wrong-content",
            "name, dtype, shape or bytes",
        ),
    ],
)
def test_each_reason_comes_out_for_its_cause_with_its_figure(
    state: str, resident: float, answer: dict[str, Any], reason: str, figure: str
) -> None:
    judged = judge(state, resident, SIZE, _answer(**answer))
    assert (judged.valid, judged.reason) == (False, reason)
    assert judged.detail is not None
    assert figure in judged.detail


@pytest.mark.parametrize("failure", SERVER)
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_a_failed_load_keeps_its_own_reason_and_words(state: str, failure: str) -> None:
    """Whatever the residency was: a sample that gave no result has no other fault to tell."""
    assert judge(state, 0.5, SIZE, {"failure": failure, "detail": "what it said"}) == Judgement(
        False, failure, "what it said"
    )


def test_wrong_content_is_told_before_the_cache_state() -> None:
    assert (
        judge("cold", 1.0, SIZE, _answer(content_ok=False, storage_read_bytes=0)).reason
        == "wrong-content"
    )


def test_a_part_resident_file_is_told() -> None:
    assert judge("cold", 0.5, SIZE, _answer(storage_read_bytes=SIZE // 2)).reason == "not-cold"
    assert judge("warm", 0.5, SIZE, _answer(storage_read_bytes=SIZE // 2)).reason == "not-warm"


def test_every_reason_is_one_that_something_gives() -> None:
    judged = {
        judge(state, resident, SIZE, _answer(content_ok=content_ok, storage_read_bytes=read)).reason
        for state in ("cold", "warm")
        for resident in (0.0, 1.0)
        for content_ok in (True, False)
        for read in (None, 0, SIZE)
    }
    more: tuple[dict[str, object], ...] = (
        {"not_private": "w lies in a mapped file"},
        {"misplaced": "w is on cpu"},
        {"throttle_reasons": ["hardware slowdown"]},
        {"libraries_read_bytes": 1 << 20},
    )
    judged |= {
        judge("warm", 1.0, SIZE, _answer(content_ok=True, storage_read_bytes=0) | one).reason
        for one in more
    }
    judged.add(
        judge("warm", 1.0, SIZE, _answer(storage_read_bytes=0), busy=0.5, busy_at_most=0.1).reason
    )
    judged.add(judge("cold", 0.0, SIZE, _answer(storage_read_bytes=SIZE), late=0.5).reason)
    assert judged - {None} == set(REASONS) - set(SERVER)
    assert all(REASONS.values())


def test_only_what_makes_a_gpu_slower_than_asked_spoils_a_sample() -> None:
    answer = _answer(storage_read_bytes=0)
    assert judge(
        "warm", 1.0, SIZE, answer | {"throttle_reasons": ["sync boost", "applications clocks set"]}
    ).valid
    at_rest = answer | {"throttle_reasons": ["software power cap"]}
    assert judge("warm", 1.0, SIZE, at_rest).reason == "throttled"
    assert judge("warm", 1.0, SIZE, at_rest, always_throttled=["software power cap"]).valid, (
        "given at rest too, it tells nothing"
    )
    throttled = judge(
        "warm",
        1.0,
        SIZE,
        answer | {"throttle_reasons": ["sync boost", "hardware thermal slowdown"]},
    )
    assert (throttled.reason, throttled.detail) == ("throttled", "hardware thermal slowdown")


def test_a_ceiling_that_reads_nothing_owes_storage_nothing() -> None:
    assert judge("cold", 0.0, SIZE, _answer(storage_read_bytes=0), reads=False).valid
    assert (
        judge("cold", 0.0, SIZE, _answer(storage_read_bytes=4096), reads=False).reason
        == "storage-read"
    )
    assert judge("cold", 1.0, SIZE, _answer(storage_read_bytes=0), reads=False).reason == "not-cold"
    assert (
        judge("warm", 1.0, SIZE, _answer(storage_read_bytes=4096), reads=False).reason
        == "storage-read"
    )


REQUIRED = """
    schema, run, scenario, checkpoint, format, bytes, tensors, loader, environment, device,
    cache_state, block, position, first_call_s, returned_s, ready_s, resident_before,
    resident_after, storage_read_bytes, minor_faults, major_faults, peak_rss_bytes,
    anonymous_bytes, content_ok, valid, reason, started_at
"""


def test_a_sample_s_line_carries_every_field_that_is_promised() -> None:
    promised = set(REQUIRED.replace("\n", " ").replace(" ", "").split(","))
    assert promised <= set(make_sample().as_json())
    assert make_sample().schema == SCHEMA


def test_a_sample_survives_its_line() -> None:
    sample = make_sample(
        ready_s=0.1 + 0.2,
        valid=False,
        reason="raised",
        detail='"quoted"\nand in two lines',
        anonymous_bytes=1 << 40,
    )
    line = json.dumps(sample.as_json())
    assert "\n" not in line
    assert msgspec.json.decode(line, type=Sample) == sample


def test_what_was_not_measured_is_null_and_never_0() -> None:
    line = json.loads(json.dumps(make_sample(storage_read_bytes=None).as_json()))
    assert line["storage_read_bytes"] is None
    assert line["peak_rss_bytes"] is None
    optional = [
        field.name
        for field in fields(Sample)
        if field.name.endswith(("_s", "_bytes", "_faults")) and field.name in _optional()
    ]
    assert len(optional) > 10
    bare = msgspec.convert(
        {name: value for name, value in line.items() if name not in _optional()}, Sample
    )
    assert {getattr(bare, name) for name in optional} == {None}


def _optional() -> set[str]:
    return {field.name for field in fields(Sample) if field.default is None}


def test_a_field_that_a_later_release_added_is_left_aside() -> None:
    sample = make_sample()
    assert msgspec.convert(sample.as_json() | {"watts": 300}, Sample) == sample


def test_a_line_without_a_field_that_must_be_there_is_refused() -> None:
    line = make_sample().as_json()
    del line["valid"]
    with pytest.raises(msgspec.ValidationError, match="valid"):
        msgspec.convert(line, Sample)
