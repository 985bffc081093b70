"""Checkpoints of the model hub: found by id and revision in its cache on this machine, and put
there as a pull request of nobody's yet.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.atomic_write import write_atomically, write_folder_atomically
from harness.checkpoints.folders import walk
from harness.errors import WeighbridgeError

_NAME = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([\w][\w./-]*))?")
_FILE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".json", ".pkl", ".pickle")
_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_PULL_REQUESTS = "refs/pr/"

CHECKPOINT_HELP = "a weights file, a folder, or a hub id: ORG/NAME or ORG/NAME@REVISION"
"""What a command may be given as a checkpoint."""


def resolve(text: str) -> Path:
    """Return the local path of a checkpoint: `text` itself where there is such a path, else the
    snapshot of the hub id it is.

    An id is ORG/NAME or ORG/NAME@REVISION. It is fetched where the hub can be reached, and found in
    its cache where it cannot (`HF_HUB_OFFLINE=1`, or no network). Raises `WeighbridgeError` where
    `text` is neither, or where it is to be had in neither way.
    """
    path = Path(text)
    if path.exists():
        return path
    repo, revision = hub_id(text)
    if repo is None:
        raise WeighbridgeError(
            f"{text}: there is no such file or folder, and a hub id is ORG/NAME or"
            " ORG/NAME@REVISION"
        )
    return snapshot(repo, revision)


def hub_id(text: str) -> tuple[str | None, str | None]:
    """Return (repository, revision or None) of a hub id.

    (None, None) where `text` is none, also where it ends like a weights file.
    """
    matched = _ID.fullmatch(text)
    if matched is None or matched[1].endswith(_FILE_SUFFIXES) or ".." in text:
        return None, None
    return matched[1], matched[2]


def repository_name(path: Path) -> str | None:
    """Return a name for what lies in a snapshot of the hub's cache, of its repository and the first
    seven digits of its commit.

    None where `path` lies in none.
    """
    for folder in (path.absolute(), *path.absolute().parents):
        owner = folder.parent.parent.name
        if (
            folder.parent.name == "snapshots"
            and _SNAPSHOT.fullmatch(folder.name)
            and owner.startswith("models--")
        ):
            return f"{owner.split('--')[-1]}-{folder.name[:7]}"
    return None


def snapshot(repo: str, revision: str | None) -> Path:
    """Return the folder of a repository's revision in the hub's cache, fetched where the hub can be
    reached.

    A pull request that is there is not asked of the hub: it may be one of this machine's own.
    Raises `WeighbridgeError`.
    """
    hub = _hub()
    try:
        if revision and revision.startswith(_PULL_REQUESTS):
            try:
                return Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))
            except hub.errors.LocalEntryNotFoundError:
                pass
        return Path(hub.snapshot_download(repo, revision=revision))
    except Exception as error:  # the hub's client raises its own, its transport's and OSError
        request = f"{repo}@{revision}" if revision else repo
        fetch = f"hf download {repo}{f' --revision {revision}' if revision else ''}"
        why = "it is not complete in the hub's cache, and the hub cannot be reached from here"
        if not isinstance(
            error, hub.errors.LocalEntryNotFoundError | hub.errors.IncompleteSnapshotError
        ):
            why = (
                f"the hub does not give it ({type(error).__name__}:"
                f" {(str(error).strip().splitlines() or [''])[0]})"
            )
        raise WeighbridgeError(
            f"{request}: there is no such file or folder, and as a hub id {why}; where it can be:"
            f" `{fetch}`"
        ) from None


def open_pull_request(source: str, repo: str | None, say: Callable[[str], None]) -> str:
    """Convert `source` into the hub's cache as the next pull request of its repository, and return
    that revision: refs/pr/N.

    `source` is a hub id, or a local path with `repo` saying whose it is. The new snapshot is the
    files of the repository's snapshot, or of a local folder where the cache has none, with the
    safetensors and their indexes added. Nothing is sent anywhere. Raises `WeighbridgeError`.
    """
    given = None if Path(source).exists() else hub_id(source)[0]
    if given and repo and given != repo:
        raise WeighbridgeError(
            f"{source}: is of {given}, and --repo says {repo}; leave one of them out"
        )
    target = given or repo
    if target is None or hub_id(target)[1] is not None or hub_id(target)[0] is None:
        raise WeighbridgeError(
            f"{source}: the repository of the pull request is not known; add --repo ORG/NAME"
        )
    weights = resolve(source)
    home = Path(_hub().constants.HF_HUB_CACHE) / f"models--{target.replace('/', '--')}"
    base = weights if given else _cached(target) or weights
    if not base.is_dir():
        raise WeighbridgeError(
            f"{source}: one file, and {target} has no snapshot in the cache to add it to; `hf"
            f" download {target}`, or give a folder"
        )
    for name in ("blobs", "refs/refs/pr", "snapshots"):
        (home / name).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix=".convert-") as workplace:
        paths = _make(weights, Path(workplace), say)
        kept = walk(base, hidden=True)
        listing = {str(file.relative_to(base)): _blob(home, base, file) for file in kept}
        present = [name for name in paths if name in listing]
        if present:
            raise WeighbridgeError(
                f"{source}: {target} holds {present[0]} already; a pull request of it would"
                " overwrite it"
            )
        listing |= {name: _blob(home, Path(workplace), file) for name, file in paths.items()}
        commit = _put_snapshot(home, listing)
    return _put_reference(home, commit)


def _make(weights: Path, workplace: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Return the files made of the weights, by their place in the repository."""
    from harness.checkpoints.convert import (
        convert,
        convert_weights,
        default_destination,
    )  # imported here: it brings torch

    if weights.is_dir():
        paths = convert_weights(weights, workplace, say)
    else:
        paths = [convert(weights, workplace / default_destination(weights).name, say)]
    return {str(file.relative_to(workplace)): file for file in paths}


def _cached(repo: str) -> Path | None:
    hub = _hub()
    try:
        return Path(hub.snapshot_download(repo, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return None


def _blob(home: Path, base: Path, file: Path) -> str:
    """Return the name of the blob that holds a file's content, putting it there where it is not: a
    made file moved, any other copied.
    """
    blobs = home / "blobs"
    if file.is_symlink() and file.resolve().parent == blobs.resolve():
        return file.resolve().name
    with file.open("rb") as opened:
        name = hashlib.file_digest(opened, "sha256").hexdigest()
    if not (blobs / name).exists():
        if base.parent == home and base.name.startswith(".convert-"):
            file.replace(blobs / name)
        else:
            write_atomically(blobs / name, lambda partial: shutil.copyfile(file, partial))
    return name


def _put_snapshot(home: Path, listing: dict[str, str]) -> str:
    """Make the snapshot of files whose blobs are there, and return its commit: a digest of the
    listing, in the form of git's.
    """
    commit = hashlib.sha256(
        "".join(f"{name}\0{blob}\n" for name, blob in sorted(listing.items())).encode()
    ).hexdigest()[:40]
    place = home / "snapshots" / commit

    def fill(temporary: Path) -> None:
        for name, blob in listing.items():
            link = temporary / name
            link.parent.mkdir(parents=True, exist_ok=True)
            up = Path(*[".."] * (2 + len(Path(name).parts) - 1))
            link.symlink_to(up / "blobs" / blob)

    if not place.exists():
        with suppress(FileExistsError):  # another has put the same snapshot there meanwhile
            write_folder_atomically(place, fill, lambda _: None, replace=False)
    return commit


def _put_reference(home: Path, commit: str) -> str:
    """Give the commit the next number of a pull request that is free, and return it as a
    revision.
    """
    folder = home / "refs" / _PULL_REQUESTS
    staged = folder / f".{commit}.{os.getpid()}"
    staged.write_text(commit)
    try:
        number = max(
            (int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0
        )
        while True:
            number += 1
            try:
                os.link(
                    staged, folder / str(number)
                )  # fails where another took the number meanwhile
            except FileExistsError:
                continue
            return f"{_PULL_REQUESTS}{number}"
    finally:
        staged.unlink()


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise WeighbridgeError(
            "a hub id needs huggingface_hub, which is not installed (the extra pipelines has it)"
        ) from None
    return huggingface_hub
