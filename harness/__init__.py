"""Weighbridge: how model checkpoints load, measured and proved."""

__version__ = "0.1.0"
