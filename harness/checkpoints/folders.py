"""Folders of weights: which of their files are one set, by the hub's names, sharded or not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WeighbridgeError

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_OTHER_SUFFIXES = (".h5", ".msgpack", ".onnx", ".onnx_data", ".pb", ".tflite", ".ot", ".gguf", ".pkl", ".pickle", ".joblib", ".npz")
_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*|.*_optim_states|random_states.*)\.(bin|pt|pth|ckpt)")
_INDEX = ".index.json"


@dataclass(frozen=True)
class WeightSet:
    """The files that are one set of tensors: one file, or the shards that an index names."""

    folder: Path
    name: str
    """What its safetensors form is called: model.safetensors, model.fp16.safetensors; of shards the same without their numbers."""
    files: tuple[Path, ...]
    index: Path | None
    torch: bool
    """Whether it is no safetensors."""


def safetensors_name(name: str) -> str:
    """Return what the hub calls the safetensors form of a file of this name: `model.fp16.safetensors` of `pytorch_model.fp16.bin`."""
    stem = next((name.removesuffix(suffix) for suffix in (*TORCH_SUFFIXES, ".safetensors") if name.endswith(suffix)), name)
    if re.match(r"pytorch_model(?=$|[.-])", stem):
        stem = stem.removeprefix("pytorch_")
    return f"{stem}.safetensors"


def is_weights(path: Path) -> bool:
    """Return whether a file holds weights or their index in another form than safetensors, or what a training run left."""
    name = path.name.removesuffix(_INDEX)
    return name.endswith((*TORCH_SUFFIXES, *_OTHER_SUFFIXES))


def weight_sets(folder: Path) -> list[WeightSet]:
    """Return the sets of weights in a folder and the folders under it, hidden ones left out, in the order of their places and names.

    A set that is there as safetensors and as torch files is given as safetensors. Raises `WeighbridgeError` for an index that is none, or
    that names a file outside its folder or none.
    """
    found: dict[tuple[Path, str], WeightSet] = {}
    claimed: set[Path] = set()
    paths = [path for path in sorted(folder.rglob("*")) if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    for path in paths:
        weights = path.name.removesuffix(_INDEX)
        if weights != path.name and weights.endswith((*TORCH_SUFFIXES, ".safetensors")):
            files = _indexed(path)
            claimed.update(files)
            _add(found, WeightSet(path.parent, safetensors_name(weights), files, path, not weights.endswith(".safetensors")))
    for path in paths:
        if path in claimed or path.is_dir() or _TRAINING.fullmatch(path.name):
            continue
        if path.name.endswith((*TORCH_SUFFIXES, ".safetensors")):
            _add(found, WeightSet(path.parent, safetensors_name(path.name), (path,), None, path.suffix != ".safetensors"))
    return [found[key] for key in sorted(found)]


def _add(found: dict[tuple[Path, str], WeightSet], new: WeightSet) -> None:
    key = (new.folder, new.name)
    old = found.get(key)
    if old is None or (old.torch and not new.torch):
        found[key] = new
    elif (
        old.torch
        and new.torch
        and {safetensors_name(file.name) for file in old.files} & {safetensors_name(file.name) for file in new.files}
    ):
        raise WeighbridgeError(
            f"{new.files[0]}: {old.files[0].name} beside it would have the same name as safetensors; convert them one by one"
        )


def _indexed(index: Path) -> tuple[Path, ...]:
    """Return the files an index names, in order."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted(set(map(str, named)))
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise WeighbridgeError(f"{index}: not an index with a weight_map ({error})") from None
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise WeighbridgeError(f"{index}: the index names {name!r}, which is no file of its folder; fetch it or mend the index")
    if not names:
        raise WeighbridgeError(f"{index}: its weight_map names no file")
    return tuple(index.parent / name for name in names)
