"""A process that must not outlive the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as `parent`, its parent, is gone, however
    it goes (`prctl(2)`, Linux).

    Elsewhere nothing is set: there a closed pipe ends the server instead.
    """
    if sys.platform.startswith("linux"):
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line was tied
        os._exit(1)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of every orphan below it (`prctl(2)`, Linux), so
    that it can end and reap them all.
    """
    if sys.platform.startswith("linux"):
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
