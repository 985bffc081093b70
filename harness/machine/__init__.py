"""The machine: its page cache, storage, counters and description, and who may measure on it."""
