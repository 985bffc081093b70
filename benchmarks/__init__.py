"""What is weighed: one file per scenario, in pytest-benchmark's terms."""
