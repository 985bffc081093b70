"""What unpickling a file would run, asked of picklescan without running any of it; a file is told by its content, not by its name.

picklescan alone passes a pickle that is cut short as clean when it meets no import before the cut. So every pickle is followed to its end
here as well, and one that has none is not clean.
"""

from __future__ import annotations

import io
import logging
import os
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.checkpoints.folders import TORCH_SUFFIXES
from harness.checkpoints.mapped import ZIP_MAGIC, safetensors_header

CLEAN = "clean"
FOUND = "found"
UNKNOWN = "could not tell"

_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")
_SUFFIXES = (*TORCH_SUFFIXES, *_PICKLE_SUFFIXES, ".npy", ".npz", ".zip", ".7z", ".safetensors")
_NUMPY_MAGIC = b"\x93NUMPY"
_OTHER_MAGICS = {b"7z\xbc\xaf\x27\x1c": "7z archive", b"GGUF": "gguf"}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_LEGACY_PICKLES = 5
_MOST_PICKLE_BYTES = 64 << 20  # the pickle of a million tensors; what comes behind it in a file is content, which no scan has to hold


@dataclass(frozen=True)
class Finding:
    """What a scan says of one file."""

    path: Path
    kind: str
    """What it is by its content."""
    verdict: str
    """CLEAN, FOUND or UNKNOWN."""
    found: str
    """What it would import, or why nothing can be said."""


def scan(paths: Iterable[Path]) -> list[Finding]:
    """Return a finding on every file, and on every file of each folder that could hold a pickle by its name or its content.

    Nothing of any file is run. A file named by itself always has a finding.
    """
    findings: list[Finding] = []
    for path in paths:
        if path.is_dir():
            inside = (Path(folder) / name for folder, _, names in sorted(os.walk(path)) for name in sorted(names))
            findings += [finding for finding in map(_scan, inside) if finding.kind != "other" or finding.path.suffix in _SUFFIXES]
        else:
            findings.append(_scan(path))
    return findings


def table(findings: Iterable[Finding]) -> str:
    """Return the findings as lines of text: file, kind, verdict, what was found."""
    rows = [("file", "kind", "verdict", "found"), *((str(one.path), one.kind, one.verdict, one.found) for one in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join((*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3])).rstrip() for row in rows)


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 1 where anything was found, else 2 where one could not be told, else 0."""
    verdicts = {finding.verdict for finding in findings}
    return 1 if FOUND in verdicts else 2 if UNKNOWN in verdicts else 0


def _scan(path: Path) -> Finding:
    kind = "other"
    try:
        kind = _kind(path)
        with path.open("rb") as file, _quiet():
            if kind == "safetensors" and not zipfile.is_zipfile(file):
                return Finding(path, kind, CLEAN, "holds no pickle")
            if kind in _OTHER_MAGICS.values() or kind in ("tar archive", "other"):
                return Finding(path, kind, UNKNOWN, _unknown(path, kind))
            found = _Found()
            if kind.endswith("zip") or kind == "safetensors":  # whose tensors may be a whole archive, to whoever looks for one
                _scan_zip(file, path, found)
            elif kind == "numpy":
                _scan_numpy(file, path, found)
            else:
                _scan_pickles(file, path, kind == "torch legacy", found)
                if zipfile.is_zipfile(file):  # a pickle with an archive behind it is whichever of the two its reader looks for
                    _scan_zip(file, path, found)
        return Finding(path, kind, *found.verdict())
    except Exception as error:  # what is broken breaks picklescan and zipfile in any way it likes
        return Finding(path, kind, UNKNOWN, f"cannot be read: {type(error).__name__} {error}".replace("\n", " "))


def _unknown(path: Path, kind: str) -> str:
    if path.suffix == ".safetensors":
        return "named .safetensors, but its header is not one of a whole safetensors file"
    return f"a scan does not look into a {kind}" if kind != "other" else "neither a pickle, an archive nor safetensors, or cut short"


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
        if head.startswith(ZIP_MAGIC):
            return "torch zip" if path.suffix in TORCH_SUFFIXES else "zip"
        if head.startswith(_NUMPY_MAGIC):
            return "numpy"
        for magic, kind in _OTHER_MAGICS.items():
            if head.startswith(magic):
                return kind
        if head[257:262] == b"ustar":
            return "tar archive"
        if safetensors_header(path) is not None:
            return "safetensors"
        file.seek(0)
        if head[:1] == b"\x80" and head[1:2] <= b"\x05":
            return "torch legacy" if _first_number(head) == _TORCH_MAGIC else "pickle"
        named = path.suffix in (*TORCH_SUFFIXES, *_PICKLE_SUFFIXES, ".safetensors")
        return "pickle" if named and _end(io.BytesIO(file.read(_MOST_PICKLE_BYTES)), 1) else "other"


def _first_number(head: bytes) -> Any:
    """Return the first number or text that a pickle holds."""
    try:
        return next((value for code, value, _ in pickletools.genops(head) if code.name != "PROTO"), None)
    except ValueError:
        return None


def _end(file: IO[bytes], pickles: int) -> bool:
    """Read this many pickles of the file, and return whether all of them were whole and reached their end."""
    try:
        for _ in range(pickles):
            for _code in pickletools.genops(file):
                pass
    except Exception:  # it raises ValueError for most of what is broken, and not for all
        return False
    return True


class _Found:
    """What has been seen of one file so far."""

    def __init__(self) -> None:
        self._bad: set[str] = set()
        self._unsure: set[str] = set()
        self.failures: list[str] = []
        self.pickles = 0

    def add(self, result: Any) -> None:
        """Take in a result of picklescan.

        An import it knows nothing of is no concern where `weights_only=True` allows it.
        """
        from picklescan.scanner import SafetyLevel
        from torch._weights_only_unpickler import _get_allowed_globals

        allowed = _get_allowed_globals()
        for seen in result.globals:
            name = f"{seen.module}.{seen.name}"
            if seen.safety == SafetyLevel.Dangerous:
                self._bad.add(name)
            elif seen.safety == SafetyLevel.Suspicious and name not in allowed:
                self._unsure.add(name)

    def verdict(self) -> tuple[str, str]:
        """Return (verdict, what was found)."""
        if self._bad:
            return FOUND, f"imports {', '.join(sorted(self._bad | self._unsure))}"
        if self._unsure or self.failures:
            imports = [f"imports {', '.join(sorted(self._unsure))}, which nobody vouches for"] if self._unsure else []
            return UNKNOWN, "; ".join(imports + self.failures)
        return CLEAN, "nothing but tensors and plain values" if self.pickles else "holds no pickle"


def _scan_pickles(file: IO[bytes], path: Path, legacy: bool, found: _Found) -> None:
    from picklescan.scanner import scan_bytes, scan_pickle_bytes

    found.pickles += 1
    head = file.read(_MOST_PICKLE_BYTES)
    start = io.BytesIO(head)
    whole = _end(start, _LEGACY_PICKLES if legacy else 1)
    if not whole:
        found.failures.append(
            "its pickle is cut short or broken" if len(head) < _MOST_PICKLE_BYTES else "its pickle is too long to look into"
        )
    # What follows the last pickle of torch's legacy form is content, which is never unpickled. Read as a pickle it could ask for any memory.
    data = io.BytesIO(head[: start.tell()] if legacy and whole else head)
    found.add(scan_bytes(data, str(path), ".bin") if legacy else scan_pickle_bytes(data, str(path)))
    file.seek(0)


def _scan_zip(file: IO[bytes], path: Path, found: _Found) -> None:
    from picklescan.relaxed_zipfile import RelaxedZipFile
    from picklescan.scanner import scan_pickle_bytes

    file.seek(0)
    with RelaxedZipFile(file, "r") as archive:  # of names that differ in their two places a strict reader would say nothing at all
        for entry in archive.infolist():
            with archive.open(entry) as opened:
                magic = opened.read(8)
            named = entry.filename.endswith(_PICKLE_SUFFIXES)
            with archive.open(entry) as opened:
                if magic.startswith(_NUMPY_MAGIC):
                    _scan_numpy(io.BytesIO(opened.read(_MOST_PICKLE_BYTES)), path, found)
                elif named or (magic[:1] == b"\x80" and magic[1:2] <= b"\x05"):
                    start = io.BytesIO(opened.read(_MOST_PICKLE_BYTES))
                    found.pickles += named
                    if named and not _end(start, 1):
                        found.failures.append(f"{entry.filename} is cut short or broken")
                    start.seek(0)
                    found.add(scan_pickle_bytes(start, f"{path}:{entry.filename}"))
    if path.suffix in TORCH_SUFFIXES and not found.pickles:
        found.failures.append("named like a file of torch, but its archive holds no pickle")


def _scan_numpy(file: IO[bytes], path: Path, found: _Found) -> None:
    from picklescan.scanner import scan_numpy

    found.add(scan_numpy(file, str(path)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what picklescan logs to itself: a finding says it."""
    log = logging.getLogger("picklescan")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
