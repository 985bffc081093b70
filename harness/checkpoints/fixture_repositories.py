"""Repositories as a person has them: folders of a pipeline in one format, both or none, and a hub's
cache with a pull request in it.

The formats hold different content, so that what was loaded tells which file it came from:
`.safetensors` seed 0, pickles seed 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoints.digest import tensor_digests
from harness.checkpoints.layouts import WARM_UPS
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store

LAYOUT = "warm-up-stable-diffusion"
SAFETENSORS, BIN = "safetensors", "bin"
PULL_REQUEST = "refs/pr/22"
_SEEDS = {SAFETENSORS: 0, BIN: 1}
_SUFFIXES = {SAFETENSORS: ".safetensors", BIN: ".bin"}
_LOCAL: dict[str, tuple[str, ...]] = {
    "both": (SAFETENSORS, BIN),
    "only-safetensors": (SAFETENSORS,),
    "only-bin": (BIN,),
    "neither": (),
}
_TAMPERED_WITH = "unet/diffusion_pytorch_model.safetensors"

Files = Mapping[str, Path]
"""A revision of a repository: the file that holds the content of each path."""


@dataclass(frozen=True)
class Repositories:
    """What checks load from."""

    local: Mapping[str, Path]
    """The folder of each local repository: `both`, `only-safetensors`, `only-bin`, `neither`."""
    single: Mapping[str, Path]
    """The file that holds a whole pipeline, by format, a folder `configuration` beside each."""
    home: Path
    """The folder that stands for a person's `HF_HOME`."""
    hub: Mapping[str, str]
    """The name of each repository in the hub's cache: `told-apart`, whose pull request holds other
    content than main, so that it is known which was loaded; `faithful`, whose pull request is main
    converted; `tampered`, the same but for one number of one tensor.
    """

    contents: Path
    """A file with the digest of each tensor of each format's content."""


def make_repositories(folder: Path, store: Store) -> Repositories:
    """Return the repositories, made in an empty folder from checkpoints of the store.

    Raises `DoesNotFitError` where disk or memory is short.
    """
    layout = WARM_UPS[LAYOUT]()
    sources = {kind: layout_source(layout, seed) for kind, seed in _SEEDS.items()}
    pickled = store.checkpoint(
        sources[BIN], ["pipeline-bin", "single-file-ckpt", "pipeline-safetensors"]
    )
    plain = store.checkpoint(
        sources[SAFETENSORS], ["pipeline-safetensors", "single-file-safetensors"]
    )
    parts = {
        BIN: _files(pickled.artifacts["pipeline-bin"].files),
        SAFETENSORS: _files(plain.artifacts["pipeline-safetensors"].files),
    }
    contents = folder / "contents.json"
    contents.write_text(
        json.dumps({kind: tensor_digests(source.make(0)) for kind, source in sources.items()}),
        encoding="utf-8",
    )
    converted = _weights(_files(pickled.artifacts["pipeline-safetensors"].files), SAFETENSORS)
    return Repositories(
        {name: _local(folder / "local" / name, parts, kinds) for name, kinds in _LOCAL.items()},
        {
            SAFETENSORS: _single(plain.artifacts["single-file-safetensors"].files),
            BIN: _single(pickled.artifacts["single-file-ckpt"].files),
        },
        folder / "home",
        _hub(folder, parts, converted),
        contents,
    )


def hub_repository(cache: Path, name: str, revisions: Mapping[str, Files]) -> None:
    """Make a repository in a hub's cache as a download leaves it: each content once, by its digest,
    and a snapshot of links for each revision.

    `revisions` are named as the hub names them: `main`, `refs/pr/22`.
    """
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    for revision, files in revisions.items():
        blobs = {
            path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()
        }
        commit = hashlib.sha1(
            json.dumps([name, revision, blobs]).encode(), usedforsecurity=False
        ).hexdigest()
        for path, blob in blobs.items():
            if not (folder / "blobs" / blob).exists():
                shutil.copyfile(files[path], folder / "blobs" / blob)
            link = folder / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(folder / "blobs" / blob, link.parent))
        ref = folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")


def _hub(folder: Path, parts: Mapping[str, Files], converted: Files) -> dict[str, str]:
    """Make the hub's cache: main holds `.bin`, the pull request adds `.safetensors` to it, as the
    hub's converter does.
    """
    main, tampered = parts[BIN], folder / "tampered.safetensors"
    _tamper(converted[_TAMPERED_WITH], tampered)
    added = {
        "told-apart": _weights(parts[SAFETENSORS], SAFETENSORS),
        "faithful": converted,
        "tampered": {**converted, _TAMPERED_WITH: tampered},
    }
    names = {kind: f"weighbridge/{kind}" for kind in added}
    for kind, files in added.items():
        hub_repository(
            folder / "home" / "hub", names[kind], {"main": main, PULL_REQUEST: {**main, **files}}
        )
    return names


def _tamper(file: Path, changed: Path) -> None:
    """Write a file as it is but for the lowest bit of its last byte but one, which is a
    number's.
    """
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    changed.write_bytes(content)


def _local(folder: Path, parts: Mapping[str, Files], kinds: tuple[str, ...]) -> Path:
    """Make a folder with what stands beside the weights, and the weights of these formats."""
    configurations = {
        path: file for path, file in parts[BIN].items() if path not in _weights(parts[BIN], BIN)
    }
    for files in (configurations, *(_weights(parts[kind], kind) for kind in kinds)):
        for path, file in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / path)
    return folder


def _files(files: tuple[Path, ...]) -> Files:
    root = Path(os.path.commonpath(files))
    return {file.relative_to(root).as_posix(): file for file in files}


def _weights(files: Files, kind: str) -> Files:
    return {path: file for path, file in files.items() if path.endswith(_SUFFIXES[kind])}


def _single(files: tuple[Path, ...]) -> Path:
    return next(file for file in files if file.stem == "checkpoint")
