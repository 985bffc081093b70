"""Every rule by which a test of a claim can be judged."""

from __future__ import annotations

from harness.analysis.load_rules import (
    ContentTest,
    FieldTest,
    MemoryLimitTest,
    PaybackTest,
    RatioTest,
)
from harness.analysis.trial_rules import ChecksTest, ScannerTest, TrialsTest

AnyTest = (
    RatioTest
    | FieldTest
    | MemoryLimitTest
    | PaybackTest
    | ContentTest
    | ChecksTest
    | TrialsTest
    | ScannerTest
)
"""A test by any rule; `claims.toml` names the rule by its tag."""
