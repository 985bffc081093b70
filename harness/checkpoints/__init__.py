"""Checkpoints: layouts of real models, the formats they are stored in, and the store that makes
each of them once.
"""
