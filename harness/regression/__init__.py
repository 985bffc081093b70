"""Environments side by side: the paired run, its thresholds and their calibration."""
