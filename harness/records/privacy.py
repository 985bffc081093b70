"""Whether what a run keeps tells of its owner."""

from __future__ import annotations

import getpass
import platform
import re
from contextlib import suppress
from pathlib import Path

_OF_THE_SYSTEM = ("/proc/", "/sys/", "/dev/")
"""What lies here is called the same on every machine."""


def private_words() -> set[str]:
    """Return what names this machine's owner: host, user and home.

    `root` is a word that stands in many places for other reasons.
    """
    names = {platform.node(), str(Path.home())}
    with suppress(OSError, KeyError):  # a user without a name
        names.add(getpass.getuser())
    return {word for word in names if len(word) > 2 and word != "root"}


def private_in(text: str) -> list[str]:
    """Return what in a text tells of an owner: this machine's private words, and absolute paths but
    those of the system.
    """
    words = [
        word
        for word in sorted(private_words())
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)
    ]
    paths = {match.group() for match in ABSOLUTE_PATH.finditer(text)}
    return words + sorted(path for path in paths if not path.startswith(_OF_THE_SYSTEM))


ABSOLUTE_PATH = re.compile(r"(?<![\w.…/])/(?:[^\s/'\":,;<>()]+/)+([^\s/'\":,;<>()]*)")


def without_paths(text: str) -> str:
    """Return a message with every absolute path in it cut down to its last name: a run keeps
    nothing private.
    """
    return ABSOLUTE_PATH.sub(r"…/\1", text)
