"""Measuring: the sample and its validity, the process that takes it, the blocks of an experiment.

`child`, `server` and `walk` run inside an environment under test and need the standard library,
torch and the loader alone.
"""
