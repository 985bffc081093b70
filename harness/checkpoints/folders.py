"""Folders of weights: which of their files are one set, by the hub's names, sharded or not."""

from __future__ import annotations

import json
import re
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.checkpoints.safetensors_file import SAFETENSORS_SUFFIXES
from harness.errors import WeighbridgeError

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar")
_OTHER_SUFFIXES = (
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".pb",
    ".tflite",
    ".ot",
    ".gguf",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npz",
)
_TRAINING = re.compile(
    r"(training_args|optimizer.*|scheduler.*|scaler.*|sampler.*|dl_state_dict.*|rng_state.*"
    r"|.*_optim_states|random_states.*)"
    r"\.(bin|pt|pth|ckpt)"
)
_INDEX = re.compile(
    r"(?P<stem>.+?)\.(?P<suffix>safetensors|bin|pt|pth|ckpt)(?P<before>\.[\w-]+)?\.index"
    r"(?P<after>\.[\w-]+)?\.json"
)
"""An index's name. transformers puts a variant behind `index`, Diffusers before it:
`model.safetensors.index.fp16.json`.
"""

_USUAL = "model.safetensors"
_GGML_MAGICS = (b"ggml", b"lmgg", b"ggjt", b"tjgg", b"ggmf", b"fmgg", b"ggla", b"GGUF")


@dataclass(frozen=True)
class WeightSet:
    """The files that are one set of tensors: one file, or the shards that an index names."""

    folder: Path
    name: str
    """What its safetensors form is called: model.safetensors, model.fp16.safetensors; of shards the
    same without their numbers.
    """

    files: tuple[Path, ...]
    index: Path | None
    torch: bool
    """Whether it is no safetensors."""
    places: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Of shards, the name of the file in which the index says that a tensor lies: of two of one
    name, that one counts.
    """

    def counts(self, tensor: str, file: Path) -> bool:
        """Return whether the tensor of this name in this file is the set's: it is not where the
        index says that it lies elsewhere.
        """
        return self.places.get(tensor, file.name) == file.name


def safetensors_name(name: str) -> str:
    """Return what the hub calls the safetensors form of a file of this name:
    `model.fp16.safetensors` of `pytorch_model.fp16.bin`.
    """
    suffixes = (*TORCH_SUFFIXES, *SAFETENSORS_SUFFIXES)
    stem = next(
        (name[: -len(suffix)] for suffix in suffixes if name.lower().endswith(suffix)), name
    )
    if re.match(r"pytorch_model(?=$|[.-])", stem):
        stem = stem.removeprefix("pytorch_")
    return f"{stem}.safetensors"


def is_index(path: Path) -> bool:
    """Return whether a file is an index of shards by its name."""
    return _INDEX.fullmatch(path.name) is not None


def safetensors_index_name(name: str) -> str:
    """Return what the index of the safetensors form is called, given the name of another form's
    index.

    A variant stays where it stands; of a transformers model it goes behind `index`, where
    transformers looks for it today.
    """
    matched = _INDEX.fullmatch(name)
    assert matched
    variant = (matched["before"] or "") + (matched["after"] or "")
    stem = safetensors_name(f"{matched['stem']}.bin")
    transformers = stem == "model.safetensors"
    before, after = ("", variant) if transformers or matched["after"] else (variant, "")
    return f"{stem}{before}.index{after}.json"


def is_weights(path: Path) -> bool:
    """Return whether a file holds weights or their index in another form than safetensors, or what
    a training run left.
    """
    matched = _INDEX.fullmatch(path.name)
    name = f"{matched['stem']}.{matched['suffix']}" if matched else path.name
    return name.lower().endswith((*TORCH_SUFFIXES, *_OTHER_SUFFIXES))


def walk(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Return every file under a folder, hidden ones only if asked for and what the hub keeps in
    `.cache` never, links followed once, in the order of their places and names.

    What is no regular file is left out. Raises `WeighbridgeError` for what cannot be read or
    followed: it might be a part of the checkpoint.
    """
    return sorted(_walk(folder, hidden, set()))


def _walk(folder: Path, hidden: bool, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise WeighbridgeError(
            f"{folder}: cannot be read ({error.strerror}), so its files would be left out"
        ) from None
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for path in entries:
        if path.name.startswith(".") and (not hidden or path.name == ".cache"):
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            kind = "a link that cannot be followed" if path.is_symlink() else "cannot be read"
            raise WeighbridgeError(
                f"{path}: {kind} ({error.strerror}), so its target would be left out"
            ) from None
        if stat.S_ISDIR(mode):
            yield from _walk(path, hidden, seen)
        elif stat.S_ISREG(mode):
            yield path


def weight_sets(folder: Path, say: Callable[[str], None] = lambda _: None) -> list[WeightSet]:
    """Return the sets of weights in a folder and the folders under it, hidden ones left out, in the
    order of their places and names.

    A set that is there as safetensors and as torch files is given as safetensors, and one that is
    there as one file and as shards as the file, which transformers takes. Other libraries' `.bin`
    files are left out. `say` is given a line on what was chosen or left out. Raises
    `WeighbridgeError` for the index of a set that is given, where it is none or names a file
    outside its folder or none.
    """
    paths = walk(folder)
    singles: dict[tuple[Path, str], list[WeightSet]] = {}
    sharded: dict[tuple[Path, str], list[Path]] = {}
    claimed: set[Path] = set()
    for path in paths:
        if matched := _INDEX.fullmatch(path.name):
            variant = (matched["before"] or "") + (matched["after"] or "")
            name = safetensors_name(f"{matched['stem']}{variant}.{matched['suffix']}")
            sharded.setdefault((path.parent, name), []).append(path)
            claimed.update(path.parent / shard for shard in _named_by(path))
    for path in paths:
        if path in claimed or not _named_as_weights(path) or _TRAINING.fullmatch(path.name.lower()):
            continue
        weights = single(path)
        if weights.torch and (library := _other_library(path)):
            say(f"{path.relative_to(folder)}: left out, it is {library}'s and no file of torch")
            continue
        singles.setdefault((weights.folder, weights.name), []).append(weights)
    return [
        _chosen(singles.get(key, []), sharded.get(key, []), folder, say)
        for key in sorted({*singles, *sharded})
    ]


def single(path: Path) -> WeightSet:
    """Return the set of weights that is one file."""
    torch = not path.name.lower().endswith(SAFETENSORS_SUFFIXES)
    return WeightSet(path.parent, safetensors_name(path.name), (path,), None, torch)


def weights_at(path: Path, say: Callable[[str], None] = lambda _: None) -> WeightSet:
    """Return the set of weights that a person means by a path: a weights file, an index, or a
    folder that holds one set or one by the usual name.

    None of them is read. Raises `WeighbridgeError` where there is none, or several and none of the
    usual name.
    """
    if path.is_file():
        if is_index(path):
            return indexed(path)
        if not _named_as_weights(path):
            suffixes = ", ".join((*SAFETENSORS_SUFFIXES, *TORCH_SUFFIXES))
            raise WeighbridgeError(
                f"{path}: a weights file ends in {suffixes}, an index in .index.json; this one ends"
                f" in {path.suffix or 'nothing'}"
            )
        return single(path)
    if not path.is_dir():
        raise WeighbridgeError(f"{path}: there is no such file or folder")
    sets = weight_sets(path, say)
    here = [weights for weights in sets if weights.folder == path]
    usual = [weights for weights in here if weights.name == _USUAL] or here
    if len(usual) == 1:
        return usual[0]
    names = ", ".join(
        str((weights.index or weights.files[0]).relative_to(path)) for weights in here or sets
    )
    if here:
        raise WeighbridgeError(f"{path}: holds several sets of weights: {names}; name one of them")
    beneath = f"; in folders below lie {names}" if names else ""
    raise WeighbridgeError(
        f"{path}: the folder holds no weights, neither safetensors nor files of torch{beneath}:"
        " name the weights file itself"
    )


def format_of(weights: WeightSet) -> str:
    """Return the format of a set by its first file: `safetensors`, `torch-zip`, or `torch-legacy`
    where it is no zip archive.
    """
    if not weights.torch:
        return "safetensors"
    with weights.files[0].open("rb") as file:
        return "torch-zip" if file.read(4) == b"PK\x03\x04" else "torch-legacy"


def _named_as_weights(path: Path) -> bool:
    return path.name.lower().endswith((*TORCH_SUFFIXES, *SAFETENSORS_SUFFIXES))


def indexed(index: Path) -> WeightSet:
    """Return the set of shards that an index names.

    Raises `WeighbridgeError` where it is no index, or names no file of its folder.
    """
    try:
        places = {
            str(name): str(file)
            for name, file in json.loads(index.read_text(encoding="utf-8-sig"))[
                "weight_map"
            ].items()
        }
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise WeighbridgeError(f"{index}: not an index with a weight_map ({error})") from None
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise WeighbridgeError(
                f"{index}: the index names {name!r}, which is not a file of its folder; download"
                " it or repair the index"
            )
    if not names:
        raise WeighbridgeError(f"{index}: its weight_map names no file")
    matched = _INDEX.fullmatch(index.name)
    variant = (matched["before"] or "") + (matched["after"] or "") if matched else ""
    name = (
        safetensors_name(f"{matched['stem']}{variant}.{matched['suffix']}")
        if matched
        else index.name
    )
    torch = not names[0].lower().endswith(SAFETENSORS_SUFFIXES)
    return WeightSet(
        index.parent, name, tuple(index.parent / file for file in names), index, torch, places
    )


def _chosen(
    singles: list[WeightSet], indexes: list[Path], top: Path, say: Callable[[str], None]
) -> WeightSet:
    """Return the form of a set that a loader takes: safetensors before torch, one file before
    shards.
    """
    order = sorted(singles, key=lambda entry: entry.torch)
    of_torch = [weights for weights in order if weights.torch]
    if order and not order[0].torch:
        chosen = order[0]
    elif any(_of_safetensors(index) for index in indexes):
        return indexed(next(index for index in indexes if _of_safetensors(index)))
    elif len(of_torch) > 1:
        raise WeighbridgeError(
            f"{of_torch[1].files[0]}: {of_torch[0].files[0].name} beside it would have the same"
            " name as safetensors; convert them one by one"
        )
    elif of_torch:
        chosen = of_torch[0]
    else:
        return indexed(indexes[0])
    stale = [index for index in indexes if _of_safetensors(index) != chosen.torch]
    if stale:
        say(
            f"{chosen.files[0].relative_to(top)}: taken, as transformers does, and not the shards"
            f" of {stale[0].name} beside it"
        )
    return chosen


def _of_safetensors(index: Path) -> bool:
    matched = _INDEX.fullmatch(index.name)
    return bool(matched and matched["suffix"] == "safetensors")


def _named_by(index: Path) -> list[str]:
    """Return the files that an index names, none where it is no index: it may be of a form that
    nobody uses.
    """
    try:
        return sorted(
            {
                str(name)
                for name in json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()
            }
        )
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return []


def _other_library(path: Path) -> str | None:
    """Return whose a `.bin` or `.pt` file is that no torch wrote, told by its beginning, its name
    and what lies beside it; None for torch's.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return None
    if head.startswith(_GGML_MAGICS):
        return "ggml"
    if any(part.endswith((".mlpackage", ".mlmodelc")) for part in path.parts):
        return "Core ML"
    if path.with_suffix(".xml").is_file() or path.name.startswith("openvino_"):
        return "OpenVINO"
    if _of_ctranslate2(head):
        return "CTranslate2"
    if (
        "onnx" in path.parent.name.lower()
        or path.with_suffix(".onnx").is_file()
        or path.name.endswith(("_data.bin", ".onnx.bin"))
    ):
        return "ONNX"
    return None


def _of_ctranslate2(head: bytes) -> bool:
    """Return whether a file begins as CTranslate2's do: a version, then the length of a name that
    ends in a zero byte, and that name.
    """
    if len(head) < 8:
        return False
    version, length = struct.unpack("<IH", head[:6])
    name = head[6 : 6 + length]
    return 1 <= version <= 64 and 2 <= length <= 58 and name.endswith(b"\0") and name[:-1].isalnum()
