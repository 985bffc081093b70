"""Work on mapped files, done by a child that may be killed for it: the kernel sends SIGBUS where a
mapped file has become shorter.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness import atomic_write
from harness.errors import WeighbridgeError


def outlived(work: Callable[[], int]) -> int:
    """Do `work` in a forked child and return its exit status.

    Raises `WeighbridgeError` where the child was killed by SIGBUS or otherwise, once what it left
    under temporary names is removed, and `KeyboardInterrupt` where it was interrupted.
    """
    if not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        atomic_write.on_temporary = lambda path: os.write(
            writing, os.fsencode(path.absolute()) + b"\0"
        )
        os._exit(_status(work))
    os.close(writing)
    try:
        status = _wait(child)
        with os.fdopen(reading, "rb") as pipe:
            temporaries = [Path(os.fsdecode(name)) for name in pipe.read().split(b"\0") if name]
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    if status >= 0:
        if status == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        return status
    for path in temporaries:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if -status == signal.SIGBUS:
        raise WeighbridgeError(
            "a file became shorter while it was read; nothing that looks finished is left: try"
            " again when it is whole"
        )
    raise WeighbridgeError(
        f"the process was killed by {signal.Signals(-status).name}; nothing that looks finished is"
        " left"
    )


def _status(work: Callable[[], int]) -> int:
    """Do the work in the child and return its exit status; nothing may leave it but this."""
    try:
        status = work()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 2
    except BaseException as error:
        words = " ".join(str(error).split()) or "no message"
        if "--traceback" in sys.argv[1:]:
            traceback.print_exc()
        sys.stderr.write(
            f"weighbridge: {type(error).__name__}: {words} (--traceback shows where)\n"
        )
        return 2
    finally:
        sys.stderr.flush()


def _wait(child: int) -> int:
    """Return the child's exit status, the negative of a signal.

    Ctrl-C is passed on to it, and it is waited for all the same.
    """
    while True:
        try:
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)
