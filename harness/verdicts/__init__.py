"""Verdicts: statistics and what they say of a cell, as pure functions over samples."""
