"""Having loaders meet hostile files: the corpus and the wardens that it takes, made when the first loader is asked for."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from harness.checkpoints.store import Store
from harness.errors import WeighbridgeError
from harness.hostile import Specimen, Written, corpus, write_corpus
from harness.loaders import CONVERTER, EVERYTHING, MODEL, PART, SCANNER, Loader, all_formats, all_loaders, key_of
from harness.machine import confinement
from harness.measure.outcome import LOADED
from harness.measure.warden_client import TIMEOUT_S, CannotMeetError, Case, Warden, case
from harness.records.meetings import HOSTILE_FILES, HOSTILE_SCAN, Meeting
from harness.records.run_directory import RunDirectory

SIDE_BY_SIDE = 2
"""Most meetings at a time: none of them is timed against another."""
_SAME_READING = {
    "file-copy": "it copies a file and reads no format",
    "convert-and-verify": "it reads as convert does",
    "convert-legacy": "it reads as convert does",
    "safetensors-scatter": "it takes several ranks, and its reading is load_file's",
}
"""Loaders of the suite that meet no file, and why."""


def guests() -> dict[str, tuple[str, str, Loader]]:
    """Return (module, kind, loader) of every loader and scanner that meets the corpus on a CPU, by name, those of models last."""
    known: dict[str, tuple[str, str, Loader]] = {}
    for kind in (EVERYTHING, PART, CONVERTER, SCANNER, MODEL):
        for name, (module, loader) in all_loaders(kind).items():
            if not loader.ceiling and "cpu" in loader.devices and name not in _SAME_READING:
                known.setdefault(name, (module, kind, loader))
    return known


class Meetings:
    """The meetings of one run."""

    def __init__(
        self,
        store: Store,
        directory: RunDirectory,
        manifest: dict[str, Any],
        names: Sequence[str],
        specimens: Sequence[Specimen],
        say: Callable[[str], None],
    ) -> None:
        """`names` are the loaders that will be asked for; `specimens` is what each of them meets."""
        self._store, self._directory, self._manifest, self._say = store, directory, manifest, say
        self._names, self._specimens = names, specimens
        self._met: dict[str, list[Meeting]] = {}
        for meeting in directory.meetings():
            self._met.setdefault(meeting.loader, []).append(meeting)
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._written: tuple[Written, ...] | None = None
        self._wardens: dict[bool, list[Warden]] = {}

    def close(self) -> None:
        """End the wardens and remove the corpus."""
        self._stack.close()

    def refusal(self, name: str) -> str | None:
        """Return why a loader meets nothing here, or None."""
        return confinement.refusal() or guests()[name][2].absence()

    def meet(self, name: str) -> list[Meeting]:
        """Return how a loader met every file, those of an earlier part of the run included.

        Raises `CannotMeetError` where it can meet none here, and any other `WeighbridgeError` where a warden did not survive, or where the
        corpus is not the one that is known.
        """
        if refusal := self.refusal(name):
            raise CannotMeetError(refusal)
        module, kind, loader = guests()[name]
        self._prepare()
        wardens = self._wardens_of(kind == MODEL)
        key = key_of(module, name, kind)
        if reason := wardens[0].environment["absent"].get(key):
            raise WeighbridgeError(f"{name} meets nothing: {reason}")
        met = self._met.setdefault(name, [])
        ahead = [one for one in self._written or () if one.specimen.name not in {meeting.file for meeting in met}]
        free: SimpleQueue[Warden] = SimpleQueue()
        for warden in wardens:
            free.put(warden)
        whole = self._whole(loader)
        folder = all_formats()[loader.container].folder

        def one_meeting(written: Written) -> None:
            warden = free.get()
            try:
                self._say(f"{name} meets {written.specimen.name}, {len(met) + 1} of {len(self._written or ())}")
                found = case(written.files, whole, folder=folder, sharded=kind == MODEL, every=kind == SCANNER)
                self._record(met, self._meeting(name, kind, key, written.specimen, warden, found))
            finally:
                free.put(warden)

        for _ in self._pool.map(one_meeting, ahead):
            pass
        return met

    def done(self, names: Iterable[str]) -> bool:
        """Return whether all of these have met every file, or cannot."""
        return all(self.refusal(name) or len(self._met.get(name, ())) == len(self._specimens) for name in names)

    def _meeting(self, name: str, kind: str, key: str, specimen: Specimen, warden: Warden, found: Case) -> Meeting:
        answer = warden.meet(key, found, specimen.limit_s or TIMEOUT_S)
        base = answer.pop("base_rss_bytes")
        if base:
            self._manifest["guests"][name].setdefault("base_rss_bytes", base)
        scenario = HOSTILE_SCAN if kind == SCANNER else HOSTILE_FILES
        if kind == SCANNER and answer["outcome"] == LOADED:
            answer["error"] = None  # it hands nothing back
        return Meeting(scenario, specimen.name, specimen.family, name, **answer)

    def _record(self, met: list[Meeting], meeting: Meeting) -> None:
        with self._lock:
            self._directory.append_meeting(meeting)
            met.append(meeting)

    def _whole(self, loader: Loader) -> tuple[Path, ...]:
        return self._store.rehearsal({loader.container})[loader.container]

    def _prepare(self) -> None:
        """Make the corpus and start the wardens, once."""
        if self._written is not None:
            return
        place = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="weighbridge-", ignore_cleanup_errors=True)))
        self._say("making the corpus of hostile files")
        written, digest = write_corpus(self._specimens, place / "corpus", self._manifest["seed"])
        self._describe(written, digest)
        limits = confinement.Limits()
        self._manifest["hostile_limits"] = {
            "timeout_s": TIMEOUT_S,
            "memory_bytes": limits.memory,
            "files": limits.files,
            "processes": limits.processes,
        }
        self._pool = self._stack.enter_context(ThreadPoolExecutor(_side_by_side()))  # a warden ends with the thread that started it
        self._place, self._written = place, written

    def _wardens_of(self, models: bool) -> list[Warden]:
        """Return the wardens of the loaders of models, or of all others, whose forks then need not carry what the first bring with them."""
        if models not in self._wardens:
            able = {name: guests()[name] for name in self._names if self.refusal(name) is None and (guests()[name][1] == MODEL) == models}
            keys = {
                key_of(module, name, kind): [str(file) for file in self._whole(loader)] for name, (module, kind, loader) in able.items()
            }
            self._say("starting the wardens: each imports the loaders' libraries and calls each once")
            wardens = [Warden(keys, self._place / f"meeting-{models:d}-{number}") for number in range(_side_by_side())]
            for warden in self._pool.map(lambda one: one.__enter__(), wardens):
                self._stack.push(warden)
            self._wardens[models] = wardens
        return self._wardens[models]

    def _describe(self, corpus_written: Sequence[Written], digest: str) -> None:
        known = known_digests().get(str(self._manifest["seed"]))
        if known and digest != known and tuple(self._specimens) == corpus():
            raise WeighbridgeError(
                "the corpus of hostile files made here is not the one whose digest is known (harness/hostile/digest.json); nothing is met"
            )
        self._manifest["corpus"] = {
            "digest": digest,
            "files": {
                written.specimen.name: {
                    "family": written.specimen.family,
                    "container": written.specimen.container,
                    "harm": written.specimen.harm,
                    "says": written.specimen.says,
                    "bytes": written.bytes,
                    "plain": written.specimen.plain,
                }
                for written in corpus_written
            },
        }
        known = self._manifest.get("guests", {})
        self._manifest["guests"] = {name: known.get(name) or {"container": _container(name)} for name in self._names}
        self._manifest["no_guests"] = dict(_SAME_READING)


def _container(name: str) -> str:
    """Return the container a loader reads; one of parts is asked for a part that not every file has, so no file is owed to it."""
    _, kind, loader = guests()[name]
    return f"{loader.container}, a part" if kind == PART else loader.container


def _side_by_side() -> int:
    return min(SIDE_BY_SIDE, os.cpu_count() or 1)


def known_digests() -> dict[str, str]:
    """Return the digest that the whole corpus has on every machine, by seed."""
    text = resources.files("harness.hostile").joinpath("digest.json").read_text(encoding="utf-8")
    known: dict[str, str] = json.loads(text)
    return known
