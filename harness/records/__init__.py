"""The run directory as plain data: what any room may read; it imports nothing above it."""
