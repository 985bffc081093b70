"""What unpickling a file would run, asked of picklescan without running any of it.

A file is told by its content, not by its name.

picklescan alone passes a pickle that is cut short as clean when it meets no import before the cut.
So every pickle is followed to its end here as well, and one that has none is not clean. Archives
and compressed files are looked into member by member, `DEPTH` of them within one another and
`MOST_UNPACKED` bytes in all; what lies deeper, is larger or is encrypted could not be told.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import pickletools
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.checkpoints.folders import TORCH_SUFFIXES
from harness.checkpoints.mapped_files import ZIP_MAGIC, is_safetensors
from harness.checkpoints.refusals import told_by_content
from harness.checkpoints.safetensors_file import (
    SAFETENSORS_SUFFIXES,
    NoSafetensorsError,
    read_header,
)


class ScanVerdict(StrEnum):
    """What a scan says of a file."""

    CLEAN = "clean"
    FOUND = "found"
    UNKNOWN = "could not tell"


DEPTH, MOST_UNPACKED = 4, 4 << 30
"""How many archives within one another are looked into, and how many bytes of their members in
all.
"""


_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".dill", ".p", ".pk")
_ARCHIVE_SUFFIXES = (
    ".npy",
    ".npz",
    ".zip",
    ".7z",
    ".tar",
    ".gz",
    ".bz2",
    ".xz",
    ".pt2",
    ".mar",
    ".nemo",
    ".distcp",
)
_SUFFIXES = (*TORCH_SUFFIXES, *_PICKLE_SUFFIXES, *_ARCHIVE_SUFFIXES, *SAFETENSORS_SUFFIXES)
_NUMPY_MAGIC = b"\x93NUMPY"
_OTHER_MAGICS = {
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"GGUF": "gguf",
    b"Rar!\x1a\x07": "rar archive",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
"""What a scan does not look into, by how it begins."""
_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "lzma",
    **{bytes([0x78, level]): "zlib" for level in (0x01, 0x5E, 0x9C, 0xDA)},
}
"""What is compressed as a whole, by how it begins."""
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_LEGACY_PICKLES = 5
_MOST_PICKLE_BYTES = (
    64 << 20
    # the pickle of a million tensors; what comes behind it in a file is content, which no scan has
    # to
    # hold
)
_SPOOLED_BYTES = 64 << 20
_END_OF_ARCHIVE, _END_BYTES, _ENTRY = b"PK\x05\x06", 22, b"PK\x01\x02"
_LARGE_RECORDS = 56 + 20  # zip64's own end record and its locator
_RUNS = {
    "GLOBAL",
    "STACK_GLOBAL",
    "INST",
    "OBJ",
    "NEWOBJ",
    "NEWOBJ_EX",
    "REDUCE",
    "BUILD",
    "EXT1",
    "EXT2",
    "EXT4",
}
"""The opcodes that import something or call it."""
_STORAGE = re.compile(r"(?:.*/)?data/\d+")
"""A record of a torch archive that is a tensor's bytes and is never unpickled."""
_NAME = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Finding:
    """What a scan says of one file."""

    path: Path
    kind: str
    """What it is by its content."""
    verdict: ScanVerdict
    """CLEAN, FOUND or UNKNOWN."""
    detail: str
    """What it would import, or why nothing can be said."""
    passed_over: bool = False
    """Whether it was met in a folder and is nothing that is unpickled, such as a text: it is
    counted, and decides nothing.
    """


def scan(paths: Iterable[Path]) -> list[Finding]:
    """Return a finding on every file, and on every file of each folder, links followed once.

    Nothing of any file is run, and no FIFO, socket or device is opened. A file named by itself
    always has a finding that counts. In a folder what is neither a checkpoint by its content nor
    named like one is `passed_over`; what cannot be read or followed could not be told.
    """
    findings: list[Finding] = []
    for path in paths:
        findings += _scan_folder(path) if path.is_dir() else [_scan(path)]
    return findings


def table(findings: Iterable[Finding]) -> str:
    """Return the findings as lines of text: file, kind, verdict, what was found.

    Last, how many files were not looked into.
    """
    findings = list(findings)
    shown = [finding for finding in findings if not finding.passed_over]
    rows = [
        ("file", "kind", "verdict", "found"),
        *((str(finding.path), finding.kind, finding.verdict, finding.detail) for finding in shown),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(
            (*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3])
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*(lines if shown else []), _counted(findings)])


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 1 where anything was found, else 2 where one could not be told, else 0."""
    verdicts = {finding.verdict for finding in findings if not finding.passed_over}
    return 1 if ScanVerdict.FOUND in verdicts else 2 if ScanVerdict.UNKNOWN in verdicts else 0


def _counted(findings: list[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings if not finding.passed_over)
    words = [
        f"{counts[verdict]} {verdict}"
        for verdict in (ScanVerdict.FOUND, ScanVerdict.CLEAN, ScanVerdict.UNKNOWN)
        if counts[verdict]
    ]
    if others := Counter(finding.kind for finding in findings if finding.passed_over):
        words.append(
            f"{others.total()} that no loader unpickles"
            f" ({', '.join(f'{count} {kind}' for kind, count in sorted(others.items()))})"
        )
    return f"{len(findings)} files: {', '.join(words)}" if findings else "no file"


def _scan_folder(folder: Path) -> Iterator[Finding]:
    """Yield a finding on everything under a folder, in the order of the names.

    A folder that several links lead to is touched once.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        inside = waiting.pop(0)
        try:
            status = inside.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(path.name for path in inside.iterdir())
        except OSError as error:
            yield Finding(
                inside, "folder", ScanVerdict.UNKNOWN, f"cannot be read: {error.strerror}"
            )
            continue
        folders = []
        for name in names:
            path = inside / name
            try:
                mode = path.stat().st_mode
            except OSError as error:
                kind = "link" if path.is_symlink() else "file"
                yield Finding(
                    path,
                    kind,
                    ScanVerdict.UNKNOWN,
                    f"cannot be {'followed' if kind == 'link' else 'read'}: {error.strerror}",
                )
                continue
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif not stat.S_ISREG(mode):
                yield Finding(
                    path,
                    _SPECIAL.get(stat.S_IFMT(mode), "device"),
                    ScanVerdict.UNKNOWN,
                    "no regular file; not opened",
                    passed_over=True,
                )
            else:
                finding = _scan(path)
                plain = (
                    finding.kind == "other"
                    and not path.name.lower().endswith(_SUFFIXES)
                    and finding.verdict != ScanVerdict.FOUND
                )
                yield (
                    Finding(path, "other", finding.verdict, finding.detail, passed_over=True)
                    if plain
                    else finding
                )
        waiting = [*folders, *waiting]


_SPECIAL = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}


def _scan(path: Path) -> Finding:
    """Return the finding on one file.

    One that is named as weights and could not be told is called what it is, where its beginning
    tells.
    """
    finding = _looked_into(path)
    if (
        finding.verdict == ScanVerdict.UNKNOWN
        and path.name.lower().endswith(_SUFFIXES)
        and path.is_file()
        and (content := told_by_content(path))
    ):
        return replace(finding, detail=content)
    return finding


def _looked_into(path: Path) -> Finding:
    kind = "other"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Finding(path, "device", ScanVerdict.UNKNOWN, "no regular file; not opened")
        kind = _kind(path)
        look = _Look(path)
        with path.open("rb") as file, _quiet():
            if kind == "safetensors" and not zipfile.is_zipfile(file):
                return Finding(path, kind, ScanVerdict.CLEAN, "holds no pickle")
            if path.stat().st_size == 0 or kind in _OTHER_MAGICS.values():
                return Finding(path, kind, ScanVerdict.UNKNOWN, _unknown(path, kind))
            look.into(file, path.name, 0, safetensors=kind == "safetensors")
            if kind == "other" and not look.contents.seen:
                return Finding(path, kind, ScanVerdict.UNKNOWN, _unknown(path, kind))
        return Finding(path, kind, *look.contents.verdict())
    except Exception as error:  # what is broken breaks picklescan and zipfile in any way it likes
        return Finding(
            path,
            kind,
            ScanVerdict.UNKNOWN,
            f"cannot be read: {type(error).__name__} {error}".replace("\n", " "),
        )


def _unknown(path: Path, kind: str) -> str:
    if path.name.lower().endswith(SAFETENSORS_SUFFIXES):
        try:
            read_header(path)
        except NoSafetensorsError as error:
            return f"named {path.suffix}, but not a whole safetensors file: {error}"
    return (
        f"a scan does not look into a {kind}"
        if kind != "other"
        else "neither a pickle, an archive nor safetensors, or cut short"
    )


def _kind(path: Path) -> str:
    name = path.name.lower()
    with path.open("rb") as file:
        head = file.read(512)
        if head.startswith(ZIP_MAGIC):
            return "torch zip" if name.endswith((*TORCH_SUFFIXES, ".distcp", ".pt2")) else "zip"
        if head.startswith(_NUMPY_MAGIC):
            return "numpy"
        for magic, kind in _OTHER_MAGICS.items():
            if head.startswith(magic):
                return kind
        if head[257:262] == b"ustar":
            return "tar archive"
        if is_safetensors(path):
            return "safetensors"
        if compressed := _compression(head):
            return compressed
        file.seek(0)
        if head[:1] == b"\x80" and head[1:2] <= b"\x05":
            return "torch legacy" if _first_number(head) == _TORCH_MAGIC else "pickle"
        return "pickle" if _is_old_pickle(file, name) else "other"


def _compression(head: bytes) -> str | None:
    return next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)


def _decompressing(kind: str, file: IO[bytes]) -> Any:
    """Return what reads the content of a compressed file."""
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "bzip2":
        return bz2.BZ2File(file)
    return _Zlib(file) if kind == "zlib" else lzma.LZMAFile(file)  # whoever reads it closes it


def _is_old_pickle(file: IO[bytes], name: str) -> bool:
    """Return whether content of no known beginning is a pickle of protocol 0 or 1, which may begin
    with almost anything.

    It is where it is whole and imports or calls something, or is whole and named like one; or where
    it imports before it breaks off.
    """
    whole, codes = _opcodes(io.BytesIO(file.read(_MOST_PICKLE_BYTES)))
    named = name.lower().endswith((*TORCH_SUFFIXES, *_PICKLE_SUFFIXES, *SAFETENSORS_SUFFIXES))
    return bool(codes & _RUNS) or (whole and named)


def _opcodes(file: IO[bytes]) -> tuple[bool, set[str]]:
    """Return (whether a pickle is whole, the names of the opcodes up to its end or to where it
    breaks).

    An import counts only where it names something: in other content its opcode is a letter like any
    other.
    """
    codes: set[str] = set()
    try:
        for code, value, _ in pickletools.genops(file):
            if code.name in ("GLOBAL", "INST") and not _NAME.fullmatch(str(value)):
                return False, codes
            codes.add(code.name)
    except Exception:  # it raises ValueError for most of what is broken, and not for all
        needed = {"GLOBAL", "INST"} & codes or {"STACK_GLOBAL"} <= codes
        return False, codes if needed else set()
    return True, codes


def _first_number(head: bytes) -> Any:
    """Return the first number or text that a pickle holds."""
    try:
        return next(
            (value for code, value, _ in pickletools.genops(head) if code.name != "PROTO"), None
        )
    except ValueError:
        return None


def _end(file: IO[bytes], pickles: int) -> bool:
    """Read this many pickles of the file, and return whether all of them were whole and reached
    their end.
    """
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
        self.seen = False
        """Whether anything in it was an archive, a pickle or an array."""

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

    def verdict(self) -> tuple[ScanVerdict, str]:
        """Return (verdict, what was found)."""
        if self._bad:
            return ScanVerdict.FOUND, f"imports {', '.join(sorted(self._bad | self._unsure))}"
        if self._unsure or self.failures:
            imports = (
                [f"imports {', '.join(sorted(self._unsure))}, which nobody vouches for"]
                if self._unsure
                else []
            )
            return ScanVerdict.UNKNOWN, "; ".join(imports + self.failures[:_FAILURES_SHOWN])
        return (
            ScanVerdict.CLEAN,
            "nothing but tensors and plain values" if self.pickles else "holds no pickle",
        )


_FAILURES_SHOWN = 3


class _Look:
    """One file looked into, whatever lies within whatever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MOST_UNPACKED
        self.contents = _Found()

    def into(self, file: IO[bytes], name: str, depth: int, *, safetensors: bool = False) -> None:
        """Look into content that can be sought in, by what it is.

        `name` is what it is called where it lies.
        """
        if depth > DEPTH:
            self.contents.failures.append(f"{name} lies in more than {DEPTH} archives")
            return
        file.seek(0)
        head = file.read(512)
        file.seek(0)
        if safetensors or head.startswith(ZIP_MAGIC):
            self._zips(file, name, depth)
        elif head.startswith(_NUMPY_MAGIC):
            self._numpy(file)
        elif other := next(
            (kind for magic, kind in _OTHER_MAGICS.items() if head.startswith(magic)), None
        ):
            if depth:
                self.contents.seen = True
                self.contents.failures.append(
                    f"{name} is a {other}, which a scan does not look into"
                )
        elif head[257:262] == b"ustar":
            self._tar(file, depth)
        elif _compression(head) and self._compressed(file, head, name, depth):
            return
        else:
            self._pickle(file, head, name)
            if zipfile.is_zipfile(
                file
            ):  # a pickle with an archive behind it is whichever of the two its reader looks for
                self._zips(file, name, depth)

    def _zips(self, file: IO[bytes], name: str, depth: int) -> None:
        """Look into every archive that ends somewhere in the content: one behind another is what
        `.distcp` files are.
        """
        self.contents.seen = True
        before = self.contents.pickles
        ends = _ends_of_archives(file)
        for end in ends:
            self._zip(_Part(file, end), depth)
        torch_named = PurePosixPath(name.lower()).suffix in TORCH_SUFFIXES
        if not ends:
            self.contents.failures.append("its archive is cut short or broken")
        elif torch_named and self.contents.pickles == before and not self.contents.failures:
            self.contents.failures.append(
                "named like a file of torch, but its archive holds no pickle"
            )

    def _zip(self, file: Any, depth: int) -> None:
        from picklescan.relaxed_zipfile import RelaxedZipFile

        with (
            RelaxedZipFile(file, "r") as archive
        ):  # of names that differ in their two places a strict reader would say nothing at all
            entries = archive.infolist()
            of_torch = any(entry.filename.endswith("/data.pkl") for entry in entries)
            for entry in entries:
                if entry.is_dir():
                    continue
                if entry.flag_bits & 1 and not self._readable(archive, entry):
                    self.contents.failures.append(f"{entry.filename} is encrypted")
                    continue
                if of_torch and _STORAGE.fullmatch(entry.filename):
                    with (
                        archive.open(entry) as opened
                        # torch reads it as a tensor's bytes; a pickle in it is looked at all the
                        # same
                    ):
                        head = opened.read(8)
                    if not (head[:1] == b"\x80" and head[1:2] <= b"\x05") and not head.startswith(
                        _NUMPY_MAGIC
                    ):
                        continue
                with (
                    archive.open(entry) as opened,
                    self._unpacked(opened, entry.filename) as member,
                ):
                    if member is not None:
                        self.into(member, entry.filename, depth + 1)

    def _readable(self, archive: Any, entry: zipfile.ZipInfo) -> bool:
        """Return whether a member that is marked as encrypted is none: some readers look past the
        mark, and a payload may hide behind it.
        """
        checksum = 0
        try:
            with archive.open(entry) as opened:
                while piece := opened.read(1 << 20):
                    checksum = zlib.crc32(piece, checksum)
        except Exception:  # it asks for a password, or the content is no deflated stream
            return False
        return checksum == entry.CRC

    def _tar(self, file: IO[bytes], depth: int) -> None:
        self.contents.seen = True
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                opened = archive.extractfile(entry) if entry.isreg() else None
                if opened is not None:
                    with opened, self._unpacked(opened, entry.name) as member:
                        if member is not None:
                            self.into(member, entry.name, depth + 1)

    def _compressed(self, file: IO[bytes], head: bytes, name: str, depth: int) -> bool:
        """Look into compressed content.

        Return whether it was any: two bytes of a tensor may look like the beginning of it.
        """
        kind = _compression(head) or ""
        try:
            _decompressing(kind, file).read(1)
        except Exception:
            file.seek(0)
            if kind in ("zlib", "lzma"):
                return False
            self.contents.seen = True
            self.contents.failures.append(f"{name} begins like {kind} and is broken")
            return True
        file.seek(0)
        self.contents.seen = True
        inner = (
            name[: -len(PurePosixPath(name).suffix)]
            if PurePosixPath(name).suffix.lower() in (".gz", ".bz2", ".xz", ".z")
            else name
        )
        try:
            with self._unpacked(_decompressing(kind, file), name) as member:
                if member is not None:
                    self.into(member, inner, depth + 1)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            self.contents.failures.append(
                f"{name} is {kind} that breaks off ({type(error).__name__})"
            )
        return True

    @contextmanager
    def _unpacked(self, opened: Any, name: str) -> Iterator[IO[bytes] | None]:
        """Give a member's content as a file that can be sought in, or None where it goes beyond
        what is unpacked of one file.
        """
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as copied:
            while piece := opened.read(1 << 20):
                self._left -= len(piece)
                if self._left < 0:
                    self.contents.failures.append(
                        f"{name} was not looked into: more than {MOST_UNPACKED >> 30} GiB is"
                        " unpacked of no file"
                    )
                    yield None
                    return
                copied.write(piece)
            copied.seek(0)
            yield copied

    def _numpy(self, file: IO[bytes]) -> None:
        from picklescan.scanner import scan_numpy

        self.contents.seen = True
        self.contents.add(scan_numpy(io.BytesIO(file.read(_MOST_PICKLE_BYTES)), str(self._path)))

    def _pickle(self, file: IO[bytes], head: bytes, name: str) -> None:
        from picklescan.scanner import scan_bytes, scan_pickle_bytes

        named = name.lower().endswith((*TORCH_SUFFIXES, *_PICKLE_SUFFIXES))
        new = head[:1] == b"\x80" and head[1:2] <= b"\x05"
        if not new and not _is_old_pickle(file, name):
            if named:
                self.contents.seen = True
                self.contents.failures.append(
                    f"{name} is named like a pickle and is none, or is cut short or broken"
                )
            return
        file.seek(0)
        self.contents.seen = True
        self.contents.pickles += 1
        legacy = new and _first_number(head) == _TORCH_MAGIC
        content = file.read(_MOST_PICKLE_BYTES)
        start = io.BytesIO(content)
        whole = _end(start, _LEGACY_PICKLES if legacy else 1)
        if not whole and (named or not new or not _STORAGE.fullmatch(name)):
            large = len(content) == _MOST_PICKLE_BYTES
            self.contents.failures.append(
                "its pickle is too long to look into"
                if large
                else "its pickle is cut short or broken"
            )
        # What follows the last pickle of torch's legacy form is content, which is never unpickled.
        # Read as a pickle it could ask for any memory.
        data = io.BytesIO(content[: start.tell()] if legacy and whole else content)
        self.contents.add(
            scan_bytes(data, str(self._path), ".bin")
            if legacy
            else scan_pickle_bytes(data, str(self._path))
        )
        file.seek(0)


class _Part(io.RawIOBase):
    """The beginning of a file, up to a byte, as a file of its own."""

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file, self._end, self._at = file, end, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte, from the beginning, from here or from the end, and return which that is."""
        self._at = max(0, offset + (0, self._at, self._end)[whence])
        return self._at

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the part goes, and return with how many bytes."""
        self._file.seek(self._at)
        content = self._file.read(max(0, min(len(buffer), self._end - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class _Zlib(io.RawIOBase):
    """The content of a zlib stream, as joblib writes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._stream = file, zlib.decompressobj()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next, and return with how many bytes.

        Raises `zlib.error` where the stream is broken.
        """
        content = b""
        while not content and not self._stream.eof:
            piece = self._stream.unconsumed_tail or self._file.read(1 << 16)
            if not piece:
                raise EOFError("the stream breaks off")
            content = self._stream.decompress(piece, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _ends_of_archives(file: IO[bytes]) -> list[int]:
    """Return the bytes at which a zip archive ends, of every one that the content holds, one behind
    another or within.

    The four bytes that mark an end may stand in a tensor: it is one only where a list of entries
    stands before it, where it says.
    """
    ends: list[int] = []
    file.seek(0)
    at, kept = 0, b""
    while piece := file.read(8 << 20):
        text = kept + piece
        start = text.find(_END_OF_ARCHIVE)
        while start >= 0:
            if end := _archive_end(file, at - len(kept) + start):
                ends.append(end)
            start = text.find(_END_OF_ARCHIVE, start + 1)
        at += len(piece)
        kept = text[-(len(_END_OF_ARCHIVE) - 1) :]
        file.seek(at)
    return ends


def _archive_end(file: IO[bytes], at: int) -> int | None:
    """Return where the archive ends whose end record begins at a byte, or None where there is
    none.
    """
    file.seek(at)
    record = file.read(_END_BYTES)
    if len(record) < _END_BYTES:
        return None
    entries: int
    size: int
    comment: int
    _, _, _, _, entries, size, _, comment = struct.unpack("<4s4H2LH", record)
    if size == 0xFFFFFFFF or entries == 0xFFFF:
        file.seek(max(0, at - 20))
        return at + _END_BYTES + comment if file.read(4) == b"PK\x06\x07" else None
    if size > at:
        return None
    file.seek(at - size)
    listed = file.read(4)
    if (listed == _ENTRY and size) or at == 0:
        return at + _END_BYTES + comment
    file.seek(
        max(0, at - _LARGE_RECORDS - size)
    )  # the records of a large archive stand between the list and its end
    return at + _END_BYTES + comment if file.read(4) == _ENTRY else None


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
