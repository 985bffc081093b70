"""Checkpoint files opened without being read: each tensor lies in a mapping of its file, and its
pages come when they are looked at.

Needs the standard library and torch alone, since `convert_file` also runs inside an environment
under test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from harness.checkpoints.refusals import refusal, told_by_content
from harness.checkpoints.safetensors_file import (
    SAFETENSORS_SUFFIXES,
    Header,
    NoSafetensorsError,
    read_header,
)
from harness.checkpoints.state_dict import state_dict_of
from harness.errors import WeighbridgeError

Tensors = dict[str, torch.Tensor]

ZIP_MAGIC = b"PK\x03\x04"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Mapped:
    """One opened checkpoint file: its tensors, each of them a view of the mapped file."""

    path: Path
    tensors: Tensors
    recorded: dict[str, str] = field(default_factory=dict)
    """Of safetensors, the names whose metadata says that they share the memory of another: the
    other by the name.
    """

    place: str | None = None
    """Where in a torch file the tensors lay, None for its top."""
    left_out: tuple[str, ...] = ()
    """What a torch file held beside the tensors, each with what it is."""
    note: str | None = None
    """Both in a line for a person."""


def open_mapped(path: Path, key: str | None = None) -> Mapped:
    """Return the tensors of a safetensors file or a torch file of either kind, told apart by
    content.

    A pickle is read with `weights_only=True`; of a training checkpoint the state dict is taken,
    under `key` where that is given. Raises `WeighbridgeError` where the file is neither, is broken,
    asks for more than that allows, or holds no tensors.
    """
    if not path.is_file():
        raise WeighbridgeError(f"{path}: there is no such file")
    try:
        header = read_header(path)
    except NoSafetensorsError as error:
        if path.suffix.lower() in SAFETENSORS_SUFFIXES:
            raise WeighbridgeError(
                f"{path}: not a whole safetensors file: {told_by_content(path) or error}"
            ) from None
        header = None
    if not _is_text(path):
        return _by_descriptor(path, key)
    if header:
        return _safetensors(path, header)
    if content := told_by_content(path):
        raise WeighbridgeError(f"{path}: no file of torch: {content}")
    try:
        with path.open("rb") as file:
            loaded = _zip(path) if file.read(4) == ZIP_MAGIC else _Legacy(path).load()
    except WeighbridgeError:
        raise
    except Exception as error:  # a broken pickle can raise anything at all
        raise WeighbridgeError(
            f"{path}: torch.load with weights_only=True refuses it: {refusal(error)}; nothing of it"
            " was run"
        ) from None
    try:
        state_dict = state_dict_of(loaded, key)
    except WeighbridgeError as error:
        raise WeighbridgeError(f"{path}: {error}") from None
    tensors = {name: _plain(path, name, tensor) for name, tensor in state_dict.tensors.items()}
    return Mapped(
        path, tensors, place=state_dict.place, left_out=state_dict.left_out, note=state_dict.note
    )


def _is_text(path: Path) -> bool:
    """Return whether a path can be written as UTF-8, which is all that torch takes.

    A file's name may be any bytes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _by_descriptor(path: Path, key: str | None) -> Mapped:
    """Open a file that torch cannot name by the name of a descriptor of it."""
    descriptor = os.open(path, os.O_RDONLY)
    alias = Path(f"/proc/self/fd/{descriptor}")
    try:
        return replace(open_mapped(alias, key), path=path)
    except WeighbridgeError as error:
        raise WeighbridgeError(str(error).replace(str(alias), str(path))) from None
    finally:
        os.close(descriptor)


def is_safetensors(path: Path) -> bool:
    """Return whether a file is a whole safetensors file, by its content."""
    try:
        read_header(path)
    except NoSafetensorsError:
        return False
    return True


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor where they lie; the tensor has to outlive them."""
    if not tensor.nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def release(address: int, size: int) -> None:
    """Give back the pages of a mapped file, which nobody has written to (`madvise(2)`,
    MADV_DONTNEED).

    Only ever of a mapping: of other memory this would lose the content.
    """
    first = address - address % mmap.PAGESIZE
    _libc.madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(address + size - first), mmap.MADV_DONTNEED
    )


def extent(tensor: torch.Tensor) -> int:
    """Return the bytes of its storage that a tensor takes, from the storage's first to its own
    last.
    """
    last = tensor.storage_offset() + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return (last + 1) * tensor.itemsize if tensor.numel() else 0


def _mapping(path: Path) -> torch.UntypedStorage:
    """Return the whole file as mapped memory.

    Raises `WeighbridgeError` where its file system maps no file.
    """
    try:
        return torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    except RuntimeError as error:
        words = (str(error).splitlines() or [""])[0]
        raise WeighbridgeError(
            f"{path}: cannot be mapped into memory ({words}); copy it to a local disk"
        ) from None


def _safetensors(path: Path, header: Header) -> Mapped:
    storage = _mapping(path)
    tensors: Tensors = {}
    for name, entry in header.tensors.items():
        dtype = getattr(torch, entry.dtype.torch or "", None)
        if refusal := entry.refusal or (
            None if dtype else f"is of dtype {entry.dtype.code}, which this torch does not have"
        ):
            raise WeighbridgeError(f"{path}: {name} {refusal}")
        tensor = torch.empty(0, dtype=dtype)
        if entry.end > entry.start:
            tensor = tensor.set_(storage[header.data + entry.start : header.data + entry.end])
        tensors[name] = tensor.reshape(entry.torch_shape)
    recorded = {
        name: kept for name, kept in header.metadata.items() if name != "format" and kept in tensors
    }
    return Mapped(path, tensors, recorded)


def _zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeighbridgeError(
                f"{path}: its records are compressed, which torch.save never does; load it and save"
                " it again"
            )
        if any(
            entry.filename.endswith("/byteorder") and archive.read(entry) == b"big"
            for entry in archive.infolist()
        ):
            raise WeighbridgeError(
                f"{path}: was saved big-endian; load it and save it again on this machine"
            )
        _check_claims(path, archive)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _check_claims(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise where a storage is said to be larger than its record: `torch.load(mmap=True)` would
    take the bytes behind it for the rest.
    """
    from torch import _weights_only_unpickler as safe

    pickle = next(
        (entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None
    )
    if pickle is None:
        return  # torch.load says so
    records = {
        entry.filename.rpartition("/data/")[2]: entry.file_size
        for entry in archive.infolist()
        if "/data/" in entry.filename
    }

    def stand_in(saved: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, count = saved
        storage = _without_memory(kind, count)
        if storage._untyped_storage.nbytes() > records.get(key, 0):
            text, there = storage._untyped_storage.nbytes(), records.get(key, 0)
            raise WeighbridgeError(
                f"{path}: cut short; storage {key} is said to be {text:,} bytes and its record"
                f" holds {there:,}"
            )
        return storage

    with archive.open(pickle) as file:
        unpickler = safe.Unpickler(file, encoding="utf-8")
        unpickler.persistent_load = stand_in
        unpickler.load()


def _without_memory(kind: Any, count: int) -> torch.storage.TypedStorage:
    """Return a storage of a kind and so many elements that has no memory."""
    dtype = getattr(
        kind, "dtype", torch.uint8
    )  # storages of the newer dtypes have none and are counted in bytes
    storage = torch.UntypedStorage(count * dtype.itemsize, device="meta")
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


class _Legacy:
    """A file of torch before 1.6: four small pickles, the checkpoint's own, the list of storages,
    then each storage's bytes.

    torch maps no such file. So the same unpickler that `weights_only=True` uses is given storages
    without memory, and every tensor is made again over the mapping at the place where its storage
    lies (`_legacy_load` in torch/serialization.py).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stand_ins: dict[str, torch.storage.TypedStorage] = {}
        self._made: dict[int, torch.UntypedStorage] = {}

    def load(self) -> Any:
        from torch import _weights_only_unpickler as safe

        with self._path.open("rb") as file:
            if safe.load(file, encoding="utf-8") != torch.serialization.MAGIC_NUMBER:
                raise WeighbridgeError(
                    f"{self._path}: neither safetensors nor a file of torch.save; `weighbridge"
                    " scan` says what it is"
                )
            if safe.load(file, encoding="utf-8") != torch.serialization.PROTOCOL_VERSION:
                raise WeighbridgeError(f"{self._path}: of a protocol that torch.load does not know")
            safe.load(
                file, encoding="utf-8"
            )  # the sizes of integers where it was saved, which torch does not look at either
            unpickler = safe.Unpickler(file, encoding="utf-8")
            unpickler.persistent_load = self._stand_in
            loaded = unpickler.load()
            places = self._places(file, safe.load(file, encoding="utf-8"))
        whole = _mapping(self._path)
        for key, (start, size) in places.items():
            self._made[self._stand_ins[key]._untyped_storage._cdata] = whole[start : start + size]
        return self._over_mapping(loaded)

    def _stand_in(self, saved: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, count, view = saved
        if view is not None:
            raise WeighbridgeError(
                f"{self._path}: holds views in the manner of torch before 0.4; load it and save it"
                " again"
            )
        if key not in self._stand_ins:
            self._stand_ins[key] = _without_memory(kind, count)
        return self._stand_ins[key]

    def _places(self, file: Any, keys: list[str]) -> dict[str, tuple[int, int]]:
        """Return (first byte, size in bytes) of each storage in the file."""
        places: dict[str, tuple[int, int]] = {}
        at, end = file.tell(), self._path.stat().st_size
        for key in keys:
            file.seek(at)
            (count,) = struct.unpack("<q", file.read(8))
            size = count * self._stand_ins[key].dtype.itemsize
            if count < 0 or at + 8 + size > end:
                raise WeighbridgeError(
                    f"{self._path}: cut short; storage {key} ends at byte {at + 8 + size:,} of"
                    f" {end:,}"
                )
            places[key] = (at + 8, size)
            at += 8 + size
        return places

    def _over_mapping(self, loaded: Any) -> Any:
        if isinstance(loaded, torch.Tensor) and loaded.layout == torch.strided:
            real = self._made[loaded.untyped_storage()._cdata]
            if extent(loaded) > real.nbytes():
                raise WeighbridgeError(
                    f"{self._path}: cut short; a tensor of {extent(loaded):,} bytes lies in"
                    f" {real.nbytes():,}"
                )
            empty = torch.empty(0, dtype=loaded.dtype)
            return (
                empty.set_(real, loaded.storage_offset(), loaded.size(), loaded.stride())
                if loaded.numel()
                else empty.reshape(loaded.shape)
            )
        return (
            {name: self._over_mapping(value) for name, value in loaded.items()}
            if isinstance(loaded, Mapping)
            else loaded
        )


def _plain(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without its gradient's machinery.

    Raise where it is more than dtype, shape and bytes in memory.
    """
    if (
        tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
    ):
        raise WeighbridgeError(
            f"{path}: {name} is no dense tensor of the CPU ({tensor.layout}); make it one and save"
            " it again"
        )
    if tensor.numel() and extent(tensor) > tensor.untyped_storage().nbytes():
        raise WeighbridgeError(f"{path}: cut short; {name} ends behind its storage")
    return tensor.detach()
