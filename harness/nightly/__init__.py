"""The nightly check: environments side by side, the run that measures them in the same blocks, its calibration, and its trial."""
