"""What `weighbridge convert` does with a torch file, and the plain copy of that file it is held
against: on the disk that the file is on.

Each makes a file and returns no tensor: its clock stops when the file is whole and on the disk.
What it made is read back, held against the checkpoint and removed after the clocks have stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.loaders import Converter

if TYPE_CHECKING:
    from harness.loaders import Tensors

_CONVERT = ("torch", "picklescan")
_FOLDER = ".conversion-"


def _made(source: str) -> Path:
    """Return the folder of what this process makes of a file."""
    return Path(source).parent / f"{_FOLDER}{os.getpid()}"


def _anew(source: str) -> Path:
    """Return that folder, empty; what a process that was killed had left beside it goes."""
    for left in Path(source).parent.glob(f"{_FOLDER}*"):
        shutil.rmtree(left)
    folder = _made(source)
    folder.mkdir()
    return folder


def _file_copy(files: Sequence[str], _device: str) -> Tensors:
    from harness.checkpoints.streamed_write import copy

    folder = _anew(files[0])
    for file in files:
        copied = folder / Path(file).name
        copy(Path(file), copied)
        with copied.open("rb+") as there:
            os.fsync(there.fileno())
    return {}


def _convert(files: Sequence[str], _device: str) -> Tensors:
    """Scan and convert as the command does."""
    from harness.checkpoints.convert import convert

    folder = _anew(files[0])
    for file in files:
        convert(Path(file), folder / f"{Path(file).stem}.safetensors", lambda _: None)
    return {}


def _convert_and_verify(files: Sequence[str], device: str) -> Tensors:
    from harness.checkpoints.verify import differences

    _convert(files, device)
    for file in files:
        names = differences(Path(file), _made(file) / f"{Path(file).stem}.safetensors")
        if names:
            raise ValueError("; ".join(names))
    return {}


def _read_back(files: Sequence[str]) -> Tensors:
    """Return the tensors of what was made, mapped, and remove it: the mapping keeps its bytes until
    they have been checked.
    """
    from harness.checkpoints.mapped_files import open_mapped

    folder = _made(files[0])
    tensors = {
        name: tensor
        for file in sorted(folder.iterdir())
        for name, tensor in open_mapped(file).tensors.items()
    }
    shutil.rmtree(folder)
    return tensors


def _converter(
    name: str,
    format_name: str,
    work: Callable[[Sequence[str], str], Tensors],
    requires: tuple[str, ...],
) -> Converter:
    return Converter(name, format_name, work, requires, read_back=_read_back, devices=("cpu",))


CONVERTERS = (
    _converter("file-copy", "torch-zip", _file_copy, ("torch",)),
    _converter("convert", "torch-zip", _convert, _CONVERT),
    _converter("convert-and-verify", "torch-zip", _convert_and_verify, _CONVERT),
    _converter("convert-legacy", "torch-legacy", _convert, _CONVERT),
)
