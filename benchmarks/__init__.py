"""What is measured: one file per scenario, in pytest-benchmark's terms."""
