"""Processes that do one thing each: load, time a process, hold a rank, check a promise, meet a
hostile file.
"""
