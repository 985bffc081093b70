"""Converters that do what none should: change a bit, lose a tensor, leave nothing, and die in the
middle.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.loaders import Converter, converters

if TYPE_CHECKING:
    from harness.loaders import Tensors


def _then(name: str, spoil: Callable[[str], None]) -> Converter:
    def load(files: Sequence[str], device: str) -> Tensors:
        made = converters._convert(files, device)
        if "warm-up" not in files[0]:
            spoil(str(next(converters._made(files[0]).iterdir())))
        return made

    return replace(
        next(one for one in converters.CONVERTERS if one.name == "convert"), name=name, load=load
    )


def _flip(path: str) -> None:
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


CONVERTERS = (
    _then("flips-a-bit", _flip),
    _then("leaves-nothing", os.remove),
    _then("dies", lambda _: os.kill(os.getpid(), signal.SIGKILL)),
)
