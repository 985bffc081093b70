"""A scan: clean means looked into, all of it, wherever a pickle lies and whatever it is called."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.checkpoints import scan as scanning
from harness.checkpoints.scan import ScanVerdict, exit_status, scan, table


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _zipped(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def _tarred(mode: str, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


NEW, OLD = pickle.dumps(Evil()), pickle.dumps(Evil(), protocol=0)
CHECKPOINT, FINE = _saved({"x": Evil()}), _saved({"a": torch.ones(2)})
HIDDEN = {
    "frame.pkl.gz": gzip.compress(NEW),
    "frame.pkl.bz2": bz2.compress(NEW),
    "frame.pkl.xz": lzma.compress(NEW),
    "model.joblib": zlib.compress(NEW),
    "asr.nemo": _tarred("w", model__ckpt=CHECKPOINT),
    "asr-gz.nemo": _tarred("w:gz", model__ckpt=CHECKPOINT),
    "served.mar": _zipped(model__pt=CHECKPOINT),
    "program.pt2": _zipped(weights__pt=CHECKPOINT),
    "twice.zip": _zipped(a__zip=_zipped(b__pkl=NEW)),
    "old-in.zip": _zipped(weights__dat=OLD),
    "gz-in.zip": _zipped(x__pkl__gz=gzip.compress(NEW)),
    "old.dill": OLD,
    "old.data": OLD,
    "old": OLD,
    "old.PKL": OLD,
    "MODEL.CKPT": CHECKPOINT,
    "two.pt": CHECKPOINT + FINE,
    "__0_0.distcp": FINE + CHECKPOINT + FINE,
    "breaks-off.bin": OLD[:-1] + b"\xff\xff",
    "weights.SAFETENSORS": NEW,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_payload_is_found_wherever_it_lies(name: str, tmp_path: Path) -> None:
    """And a file is called the same alone and in its folder."""
    (tmp_path / name).write_bytes(HIDDEN[name])
    (alone,), (inside,) = scan([tmp_path / name]), scan([tmp_path])
    assert alone.verdict == inside.verdict == ScanVerdict.FOUND, alone
    assert not inside.passed_over and "system" in inside.detail


def _deep(levels: int) -> bytes:
    content = NEW
    for _ in range(levels):
        content = _zipped(zipfile.ZIP_DEFLATED, x__zip=content)
    return content


def test_what_lies_deeper_or_is_larger_than_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep.zip").write_bytes(_deep(scanning.DEPTH + 2))
    (deep,) = scan([tmp_path / "deep.zip"])
    assert deep.verdict == ScanVerdict.UNKNOWN and "more than 4 archives" in deep.detail
    (tmp_path / "deep.zip").write_bytes(_deep(scanning.DEPTH))
    assert scan([tmp_path / "deep.zip"])[0].verdict == ScanVerdict.FOUND
    (tmp_path / "bomb.pkl.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    monkeypatch.setattr(scanning, "MOST_UNPACKED", 1 << 19)
    (bomb,) = scan([tmp_path / "bomb.pkl.gz"])
    assert bomb.verdict == ScanVerdict.UNKNOWN and "was not looked into" in bomb.detail


def test_an_encrypted_member_could_not_be_told(tmp_path: Path) -> None:
    """One that is only marked as encrypted is looked into: a reader that passes over the mark would
    unpickle it.
    """

    content = bytearray(_zipped(weights__dat=NEW))
    for at in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[at] |= 1
    (tmp_path / "marked.zip").write_bytes(content)
    assert scan([tmp_path / "marked.zip"])[0].verdict == ScanVerdict.FOUND
    at = content.index(NEW)
    content[at : at + len(NEW)] = bytes(byte ^ 0x5A for byte in NEW)
    (tmp_path / "locked.zip").write_bytes(content)
    (finding,) = scan([tmp_path / "locked.zip"])
    assert (finding.verdict, finding.detail) == (ScanVerdict.UNKNOWN, "weights.dat is encrypted")


@pytest.mark.parametrize(
    "magic", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"]
)
def test_an_archive_that_is_not_looked_into_is_never_clean(magic: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(magic + bytes(100))
    (tmp_path / "inside.zip").write_bytes(_zipped(a__dat=magic + bytes(100)))
    assert [finding.verdict for finding in scan([tmp_path])] == [
        ScanVerdict.UNKNOWN,
        ScanVerdict.UNKNOWN,
    ]


def test_what_is_no_checkpoint_is_not_called_clean(tmp_path: Path) -> None:
    fine = {
        "a.bin": FINE,
        "two.pt": FINE + FINE,
        "a.zip": _zipped(a__pt=FINE, readme__txt=b"text"),
        "a.pkl.gz": gzip.compress(pickle.dumps([1])),
    }
    for name, content in fine.items():
        (tmp_path / name).write_bytes(content)
    save_file(
        {"a": torch.frombuffer(bytearray(os.urandom(1 << 20)), dtype=torch.uint8)},
        tmp_path / "a.safetensors",
    )
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "README.md").write_text("# a model\n\nclass of its own\n")
    os.mkfifo(tmp_path / "log.pipe")
    findings = scan([tmp_path])
    assert {
        finding.path.name: finding.verdict for finding in findings if not finding.passed_over
    } == dict.fromkeys((*fine, "a.safetensors"), ScanVerdict.CLEAN)
    assert exit_status(findings) == 0
    assert (
        table(findings).splitlines()[-1]
        == "8 files: 5 clean, 3 that no loader unpickles (1 FIFO, 2 other)"
    )
    assert exit_status(scan([tmp_path / "log.pipe"])) == 2


def test_links_are_followed_once_and_what_leads_nowhere_is_said(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "evil.ckpt").write_bytes(CHECKPOINT)
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        (models / name).symlink_to(elsewhere)
    (models / "round").symlink_to(models)
    findings = scan([models])
    assert [
        (finding.path.relative_to(models).as_posix(), finding.verdict) for finding in findings
    ] == [("one/evil.ckpt", ScanVerdict.FOUND)]
    (models / "gone").symlink_to(tmp_path / "nowhere")
    (gone,) = (finding for finding in scan([models]) if finding.path.name == "gone")
    assert (gone.verdict, gone.kind) == (
        ScanVerdict.UNKNOWN,
        "link",
    ) and "cannot be followed" in gone.detail


def test_a_folder_that_cannot_be_read_could_not_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    read = Path.iterdir

    def refuse(self: Path) -> Any:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    findings = scan([tmp_path])
    assert [(finding.kind, finding.verdict) for finding in findings] == [
        ("folder", ScanVerdict.UNKNOWN)
    ]
    assert exit_status(findings) == 2 and "Permission denied" in table(findings)


def test_random_tensors_never_look_like_anything(tmp_path: Path) -> None:
    """A tensor may hold any bytes: marks of archives, compression and pickles among them."""
    marks = [
        b"PK\x05\x06" + bytes(18),
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\x78\x9c",
        b"cos\nsystem\n",
        b"PK\x03\x04",
        b"7z\xbc\xaf\x27\x1c",
    ]
    tensors = {
        f"t{number}": torch.frombuffer(bytearray(mark + bytes(4096)), dtype=torch.uint8)
        for number, mark in enumerate(marks)
    }
    torch.save(tensors, tmp_path / "a.bin")
    (finding,) = scan([tmp_path / "a.bin"])
    assert finding.verdict == ScanVerdict.CLEAN, finding
