"""Having loaders meet hostile files: the corpus and the sandboxes that it takes, made when the
first loader is asked for.
"""

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

from harness.checkpoints.store import Store
from harness.errors import WeighbridgeError
from harness.hostile import HostileFile, Written, corpus, write_corpus
from harness.loaders import (
    CONVERTER,
    EVERYTHING,
    MODEL,
    PART,
    SCANNER,
    Contract,
    all_formats,
    all_loaders,
)
from harness.machine import confinement
from harness.records.loader_keys import key_of
from harness.records.manifest import Manifest
from harness.records.run_directory import RunDirectory
from harness.records.trials import Outcome, Trial
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN
from harness.workers.sandbox_client import TIMEOUT_S, Case, NoTrialError, Sandbox, case

SIDE_BY_SIDE = 2
"""Most trials at a time: none of them is timed against another."""
THREADS = 4
"""Of loaders that differ in their number of threads alone, the one that meets the files."""
_SAME_READING = {
    "file-copy": "it copies a file and reads no format",
    "convert-and-verify": "it reads as convert does",
    "convert-legacy": "it reads as convert does",
    "safetensors-scatter": "it needs several ranks, and it reads like load_file",
}
"""Loaders of the suite that meet no file, and why."""


def loaders_to_test() -> dict[str, tuple[str, str, Contract]]:
    """Return (module, kind, loader) of every loader and scanner that meets the corpus on a CPU, by
    name, those of models last.
    """
    known: dict[str, tuple[str, str, Contract]] = {}
    for kind in (EVERYTHING, PART, CONVERTER, SCANNER, MODEL):
        for name, (module, loader) in all_loaders(kind).items():
            if (
                not loader.ceiling
                and "cpu" in loader.devices
                and name not in _SAME_READING
                and loader.threads in (None, THREADS)
            ):
                known.setdefault(name, (module, kind, loader))
    return known


class Trials:
    """The trials of one run."""

    def __init__(
        self,
        store: Store,
        directory: RunDirectory,
        manifest: Manifest,
        names: Sequence[str],
        hostile_files: Sequence[HostileFile],
        say: Callable[[str], None],
    ) -> None:
        """`names` are the loaders that will be asked for.

        `hostile_files` is what each of them meets.
        """
        self._store, self._directory, self._manifest, self._say = store, directory, manifest, say
        self._names, self._hostile_files = names, hostile_files
        self._met: dict[str, list[Trial]] = {}
        for trial in directory.trials():
            self._met.setdefault(trial.loader, []).append(trial)
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._written: tuple[Written, ...] | None = None
        self._sandboxes: dict[bool, list[Sandbox]] = {}

    def close(self) -> None:
        """End the sandboxes and remove the corpus."""
        self._stack.close()

    def refusal(self, name: str) -> str | None:
        """Return why a loader meets nothing here, or None."""
        return confinement.refusal() or loaders_to_test()[name][2].absence()

    def of(self, name: str) -> list[Trial]:
        """Return how a loader met every file, those of an earlier part of the run included.

        Raises `NoTrialError` where it can meet none here, and any other `WeighbridgeError` where a
        sandbox supervisor did not survive, or where the corpus is not the one that is known.
        """
        if refusal := self.refusal(name):
            raise NoTrialError(refusal)
        module, kind, loader = loaders_to_test()[name]
        self._prepare()
        sandboxes = self._sandboxes_of(kind == MODEL)
        key = key_of(module, name, kind)
        if reason := sandboxes[0].environment["absent"].get(key):
            raise WeighbridgeError(f"{name} gets no files: {reason}")
        met = self._met.setdefault(name, [])
        ahead = [
            written
            for written in self._written or ()
            if written.hostile_file.name not in {trial.file for trial in met}
        ]
        free: SimpleQueue[Sandbox] = SimpleQueue()
        for sandbox in sandboxes:
            free.put(sandbox)
        whole = self._whole(loader)
        folder = all_formats()[loader.format].folder

        def one_trial(written: Written) -> None:
            sandbox = free.get()
            try:
                self._say(
                    f"{name} meets {written.hostile_file.name}, {len(met) + 1} of"
                    f" {len(self._written or ())}"
                )
                prepared = case(
                    written.files,
                    whole,
                    folder=folder,
                    sharded=kind == MODEL,
                    every=kind == SCANNER,
                )
                self._record(
                    met, self._trial(name, kind, key, written.hostile_file, sandbox, prepared)
                )
            finally:
                free.put(sandbox)

        for _ in self._pool.map(one_trial, ahead):
            pass
        return met

    def done(self, names: Iterable[str]) -> bool:
        """Return whether all of these have met every file, or cannot."""
        return all(
            self.refusal(name) or len(self._met.get(name, ())) == len(self._hostile_files)
            for name in names
        )

    def _trial(
        self,
        name: str,
        kind: str,
        key: str,
        hostile_file: HostileFile,
        sandbox: Sandbox,
        case: Case,
    ) -> Trial:
        answer = sandbox.trial(key, case, hostile_file.limit_s or TIMEOUT_S)
        base = answer.pop("base_rss_bytes")
        if base:
            self._manifest["loaders_under_test"][name].setdefault("base_rss_bytes", base)
        scenario = HOSTILE_SCAN if kind == SCANNER else HOSTILE_FILES
        if kind == SCANNER and answer["outcome"] == Outcome.LOADED:
            answer["error"] = None  # it hands nothing back
        return Trial(scenario, hostile_file.name, hostile_file.family, name, **answer)

    def _record(self, met: list[Trial], trial: Trial) -> None:
        with self._lock:
            self._directory.append_trial(trial)
            met.append(trial)

    def _whole(self, loader: Contract) -> tuple[Path, ...]:
        return self._store.warm_up({loader.format})[loader.format]

    def _prepare(self) -> None:
        """Make the corpus and start the sandboxes, once."""
        if self._written is not None:
            return
        place = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="weighbridge-", ignore_cleanup_errors=True)
            )
        )
        self._say("making the corpus of hostile files")
        written, digest = write_corpus(
            self._hostile_files, place / "corpus", self._manifest["seed"]
        )
        self._describe(written, digest)
        limits = confinement.Limits()
        self._manifest["hostile_limits"] = {
            "timeout_s": TIMEOUT_S,
            "memory_bytes": limits.memory,
            "files": limits.files,
            "processes": limits.processes,
        }
        self._pool = self._stack.enter_context(
            ThreadPoolExecutor(_side_by_side())
        )  # a sandbox supervisor ends with the thread that started it
        self._place, self._written = place, written

    def _sandboxes_of(self, models: bool) -> list[Sandbox]:
        """Return the sandboxes of the loaders of models, or of all others, whose forks then need
        not carry what the first bring with them.
        """
        if models not in self._sandboxes:
            able = {
                name: loaders_to_test()[name]
                for name in self._names
                if self.refusal(name) is None and (loaders_to_test()[name][1] == MODEL) == models
            }
            keys = {
                key_of(module, name, kind): [str(file) for file in self._whole(loader)]
                for name, (module, kind, loader) in able.items()
            }
            self._say(
                "starting the sandboxes: each imports the loaders' libraries and calls each once"
            )
            sandboxes = [
                Sandbox(keys, self._place / f"trial-{models:d}-{number}")
                for number in range(_side_by_side())
            ]
            for sandbox in self._pool.map(lambda entry: entry.__enter__(), sandboxes):
                self._stack.push(sandbox)
            self._sandboxes[models] = sandboxes
        return self._sandboxes[models]

    def _describe(self, corpus_written: Sequence[Written], digest: str) -> None:
        known = known_digests().get(str(self._manifest["seed"]))
        if known and digest != known and tuple(self._hostile_files) == corpus():
            raise WeighbridgeError(
                "the hostile files made here do not match the known digest"
                " (harness/hostile/digest.json); no loader gets them"
            )
        self._manifest["corpus"] = {
            "digest": digest,
            "files": {
                written.hostile_file.name: {
                    "family": written.hostile_file.family,
                    "format": written.hostile_file.format,
                    "harm": written.hostile_file.harm,
                    "says": written.hostile_file.says,
                    "bytes": written.bytes,
                    "plain": written.hostile_file.plain,
                }
                for written in corpus_written
            },
        }
        loaders = self._manifest.get("loaders_under_test", {})
        self._manifest["loaders_under_test"] = {
            name: loaders.get(name) or {"format": _format_name(name)} for name in self._names
        }
        self._manifest["without_trials"] = dict(_SAME_READING)


def _format_name(name: str) -> str:
    """Return the format a loader reads.

    One of parts is asked for a part that not every file has, so no file is owed to it.
    """
    _, kind, loader = loaders_to_test()[name]
    return f"{loader.format}, a part" if kind == PART else loader.format


def _side_by_side() -> int:
    return min(SIDE_BY_SIDE, os.cpu_count() or 1)


def known_digests() -> dict[str, str]:
    """Return the digest that the whole corpus has on every machine, by seed."""
    text = resources.files("harness.hostile").joinpath("digest.json").read_text(encoding="utf-8")
    known: dict[str, str] = json.loads(text)
    return known
