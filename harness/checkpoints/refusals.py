"""Plain words for a file that is no checkpoint, and for what torch says of one that it refuses.

Needs the standard library alone, since it runs inside an environment under test.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import struct
from pathlib import Path
from typing import Any

_END_BYTES, _RECORD_BYTES = (
    22,
    30,
)  # of a zip archive: its end without a comment, the start of a record without its name
_MOST_PICKLE_BYTES = 64 << 20
_OF_A_STORAGE = 4
_ELEMENT_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
}
"""Size of an element of each storage class of torch; of all others 1."""
_LFS = b"version https://git-lfs.github.com/spec/v1"
_ADVICE = re.compile(
    r"(\. )?(Please|Re-running|In PyTorch 2\.6|Do it only|Check the documentation|If you trust).*",
    re.DOTALL,
)
_HEAD_BYTES = 1024


def refusal(error: BaseException) -> str:
    """Return why `torch.load(weights_only=True)` refused a file, without its advice to let the file
    run code.
    """
    text = str(error)
    if met := ", ".join(sorted(set(re.findall(r"GLOBAL ([\w.]+)", text)))):
        return f"it asks for {met}, which is not allowed"
    return f"{type(error).__name__} {without_advice(text)}".strip()


def without_advice(text: str) -> str:
    """Return the words of an error in one line, less torch's advice to switch `weights_only` off or
    to allow what a file asks for.
    """
    if "WeightsUnpickler error:" in text:
        text = text.partition("WeightsUnpickler error:")[2]
    elif "weights_only" not in text and "safe_globals" not in text:
        return (text.splitlines() or [""])[0]
    return " ".join(_ADVICE.sub("", text.strip()).split())


def told_by_content(path: Path) -> str | None:
    """Return what a file is that is no weights at all, or is cut short, by what it begins with.

    None where that does not tell.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if size == 0:
        return "it is empty"
    if head.startswith(_LFS):
        stands_for = re.search(rb"\nsize (\d+)", head)
        whole = f" of {int(stands_for[1]):,} bytes" if stands_for else ""
        return (
            f"it is a Git LFS pointer of {size:,} bytes, which stands for a file{whole}: fetch that"
            " with `git lfs pull`"
        )
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", head, re.IGNORECASE)
        named = f" ({title[1].decode(errors='replace').strip()})" if title else ""
        return f"it is an HTML page{named}, such as a login or an error: download it anew"
    if start.startswith(b"<?xml"):
        return "it is XML, such as a server's error: download it anew"
    if start.startswith((b"{", b"[")) and _is_json(path, size):
        return (
            "it is JSON, such as a server's error:"
            f" {' '.join(head[:80].decode(errors='replace').split())}"
        )
    return _cut_zip(path, size) if head.startswith(b"PK\x03\x04") else None


def _is_json(path: Path, size: int) -> bool:
    try:
        return size < 1 << 20 and json.loads(path.read_bytes()) is not None
    except (ValueError, RecursionError):
        return False


def _cut_zip(path: Path, size: int) -> str | None:
    """Return that a zip archive is too short, and by how much where that can be told, or None where
    it has its end.
    """
    with path.open("rb") as file:
        file.seek(max(size - (1 << 16) - _END_BYTES, 0))
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end >= 0:
            lacking = _END_BYTES - (len(tail) - end)
            return (
                f"it is cut short: it has {size:,} bytes, and {lacking:,} of the end of its zip"
                " archive are missing"
                if lacking > 0
                else None
            )
        file.seek(0)
        needed = _storage_bytes(file.read(_MOST_PICKLE_BYTES))
    if needed > size:
        return (
            f"it is cut short: its tensors alone take {needed:,} bytes, and it has {size:,}, so at"
            f" least {needed - size:,} are missing"
        )
    return f"it is cut short: it has {size:,} bytes and lacks the end of a zip archive"


def _storage_bytes(start: bytes) -> int:
    """Return how many bytes the storages take that the pickle in the first record of a cut torch
    file tells of, as far as it is there.

    A storage is named by its class, its key, a device and the number of its elements, in this order
    (torch/serialization.py).
    """
    if len(start) < _RECORD_BYTES:
        return 0
    at = _RECORD_BYTES + sum(struct.unpack("<HH", start[_RECORD_BYTES - 4 : _RECORD_BYTES]))
    sizes: dict[str, int] = {}
    memo: dict[Any, Any] = {}
    atoms: list[Any] = []
    try:
        for code, argument, _ in pickletools.genops(io.BytesIO(start[at:])):
            if code.name in ("BINGET", "LONG_BINGET"):
                atoms.append(memo.get(argument))
            elif code.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = atoms[-1] if atoms else None
            elif code.name == "BINPERSID" and len(atoms) >= _OF_A_STORAGE:
                kind, key, _, count = atoms[-_OF_A_STORAGE:]
                if isinstance(count, int) and isinstance(kind, str):
                    sizes[str(key)] = count * _ELEMENT_BYTES.get(kind.split()[-1], 1)
            elif argument is not None:
                atoms.append(argument)
    except ValueError:
        pass  # the pickle is cut as well
    return sum(sizes.values())
