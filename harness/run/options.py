"""What a person may ask of a run, checked before anything is measured."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from harness.checkpoints.folders import is_index
from harness.checkpoints.hub import repository_name, resolve
from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.parts import ORDERS, PARTS
from harness.errors import WeighbridgeError, unknown_name
from harness.hostile import family_names
from harness.loaders import DEVICES, KINDS, Contract, all_loaders
from harness.loaders.threads import COUNTS
from harness.machine.shapes import EXAMPLE, SHAPES, storage_names
from harness.records.limits import BUSY_AT_MOST, BUSY_VARIABLE
from harness.scenarios import AS_IS, CACHE_STATES, MEMORY_PARTS, CacheState

_PLAIN_NAMES = {
    "model",
    "weights",
    "checkpoint",
    "pytorch_model",
    "diffusion_pytorch_model",
    "adapter_model",
    "consolidated",
}
_Number = TypeVar("_Number", int, float)
_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Profile:
    """How much a run takes on: seconds of the whole run, checkpoints and report included, and most
    blocks of a cell.

    `sample_timeout_s` and `warm_up_timeout_s` stand where the person gives no timeout: None lets a
    sample's go by its bytes.
    """

    total_s: float
    blocks: int
    measures: str
    """What it measures, in a few words."""
    sample_timeout_s: float | None = None
    warm_up_timeout_s: float = 300.0


PROFILES = {
    "smoke": Profile(110.0, 12, "small checkpoints and a pipeline of 115 MB"),
    "default": Profile(510.0, 30, "checkpoints of up to 1.1 GB"),
    "full": Profile(5400.0, 60, "2.5 GB whole, 7B in shards, a pipeline of 2.6 GB, 1 to 8 ranks"),
    "storage": Profile(440.0, 12, "cold loads on shaped storage"),
    "gpu-short": Profile(
        480.0,
        12,
        "loads to a GPU, the cells that answer most first",
        sample_timeout_s=30.0,
        warm_up_timeout_s=60.0,
    ),
}
"""`gpu-short` is for a GPU that is to be had for minutes: cells on the GPU alone, the most valuable
first.
"""


class Conditions(TypedDict):
    """What of a cell's storage is set: its readahead in KiB, None for its own, and its shape."""

    read_ahead_kb: int | None
    storage: str


@dataclass(frozen=True)
class Options:
    """One run's options; None where the profile decides."""

    profile: str
    models: tuple[Path, ...]
    key: str | None
    """Where in a person's training checkpoint the tensors lie."""
    checkpoints: tuple[str, ...] | None
    loaders: tuple[str, ...] | None
    cache_states: tuple[CacheState, ...]
    rounds: int | None
    budget: float | None
    parts: tuple[str, ...] | None
    ranks: tuple[int, ...] | None
    threads: tuple[int, ...]
    """Of loaders that are given threads, the numbers that take part."""
    read_ahead_kb: tuple[int, ...]
    storage: tuple[str, ...]
    """Where the files lie in turn: as they are, or on storage of a shape."""
    families: tuple[str, ...] | None
    ceilings: bool
    sample_timeout_s: float | None
    warm_up_timeout_s: float
    busy_at_most: float
    """Largest share of the cores' time that other processes may use during a sample, 0 to 1."""
    store: Path | None
    results: Path
    seed: int
    resume: str | None

    def recorded(self) -> dict[str, Any]:
        """Return what a manifest keeps of the options: everything that shapes the samples, and no
        path.
        """
        return {
            "profile": self.profile,
            "models": len(self.models),
            "key": self.key,
            "checkpoints": list(self.checkpoints) if self.checkpoints is not None else None,
            "loaders": list(self.loaders) if self.loaders is not None else None,
            "cache_states": list(self.cache_states),
            "rounds": self.rounds,
            "budget": self.budget,
            "parts": list(self.parts) if self.parts is not None else None,
            "ranks": list(self.ranks) if self.ranks is not None else None,
            "threads": list(self.threads),
            "read_ahead_kb": list(self.read_ahead_kb),
            "storage": list(self.storage),
            "families": list(self.families) if self.families is not None else None,
            "no_ceilings": None if self.ceilings else True,
            "sample_timeout": self.sample_timeout_s,
            "warm_up_timeout": self.warm_up_timeout_s,
            "busy_at_most": self.busy_at_most,
            "seed": self.seed,
        }

    def model_names(self) -> tuple[str, ...]:
        """Return the names of the person's own checkpoints."""
        return tuple(model_name(path, LAYOUTS) for path in self.models)

    def states(self) -> list[tuple[CacheState, Conditions]]:
        """Return the (cache state, conditions) that every scenario goes through; what is warm is
        not read, neither ahead nor from any storage.
        """
        swept: tuple[int | None, ...] = self.read_ahead_kb or (None,)
        cold = [
            Conditions(read_ahead_kb=kb, storage=storage)
            for storage in self.storage
            for kb in swept
        ]
        warm = [Conditions(read_ahead_kb=None, storage=AS_IS)]
        return [
            (state, conditions)
            for state in self.cache_states
            for conditions in (cold if state == "cold" else warm)
        ]

    def devices(self) -> tuple[str, ...]:
        """Return the devices whose cells a scenario has: of the profile for a short loan of a GPU,
        the GPU alone.
        """
        return ("cuda",) if self.profile == "gpu-short" else DEVICES

    def arms(
        self,
        known: Mapping[str, tuple[str, Contract]],
        device: str,
        cache_state: str,
        usual: Container[str] | None = None,
    ) -> tuple[str, ...]:
        """Return which of the loaders known to a scenario are the arms of a cell, ceilings among
        them unless they are switched off.

        None are where none of those asked for takes part in such a cell. `usual` are those that it
        has where the person names none. What is given threads takes part where it is named, or
        where its number is asked for.
        """
        fit = {
            name: loader
            for name, (_, loader) in known.items()
            if device in loader.devices and cache_state in loader.cache_states
        }
        threaded = {name for name, loader in fit.items() if loader.threads is not None}
        selection = {
            name
            for name in fit
            if name in (self.loaders or usual or fit.keys() - threaded)
            or fit[name].threads in self.threads
        }
        if not selection:
            return ()
        return tuple(
            name
            for name, loader in fit.items()
            if (self.ceilings if loader.ceiling else name in selection)
        )


FLAGS: dict[str, dict[str, Any]] = {
    "--profile": {"help": f"how much to measure: {', '.join(PROFILES)} (default: default)"},
    "--model": {
        "action": "append",
        "metavar": "PATH",
        "help": (
            "measure this checkpoint of yours: a weights file, a folder or a hub id"
            " (ORG/NAME@REVISION); repeatable; it is only read"
        ),
    },
    "--key": {
        "metavar": "NAME",
        "help": (
            "which entry of a training checkpoint holds the tensors of --model, such as params_ema"
            " or model.ema"
        ),
    },
    "--checkpoints": {"metavar": "A,B", "help": f"only these of {', '.join(LAYOUTS)}"},
    "--loaders": {
        "metavar": "A,B",
        "help": "only these loaders, and the ceilings unless --no-ceilings",
    },
    "--no-ceilings": {
        "action": "store_const",
        "const": "True",
        "help": (
            "measure no ceilings: a cold cell takes half the time, and no load has a share of its"
            " ceiling"
        ),
    },
    "--cache-states": {"metavar": "A,B", "help": f"only these of {', '.join(CACHE_STATES)}"},
    "--rounds": {
        "metavar": "N",
        "help": "measure exactly N blocks of every cell, without a time limit",
    },
    "--parts": {
        "metavar": "A,B",
        "help": f"partial loads: only these of {', '.join(PARTS)}; storage: only these"
        f" of {', '.join(ORDERS)}; memory: only these of {', '.join(MEMORY_PARTS)}",
    },
    "--ranks": {
        "metavar": "N,M",
        "help": "sharded loads: only these numbers of ranks, which load together",
    },
    "--threads": {
        "metavar": "N,M",
        "help": (
            "add the loaders that are given this many threads (1, 2, 4, 8 or 16), on shards and"
            " in transformers"
        ),
    },
    "--read-ahead-kb": {
        "metavar": "N,M",
        "help": (
            "cold loads: set the device's readahead to each of these (KiB, as root); it is put back"
            " afterwards"
        ),
    },
    "--storage": {
        "metavar": "A,B",
        "help": (
            f"cold loads: the storage the files lie on: {AS_IS} (default), {', '.join(SHAPES)},"
            f" or your own, {EXAMPLE}"
        ),
    },
    "--families": {
        "metavar": "A,B",
        "help": f"hostile files: only these families: {', '.join(family_names())}",
    },
    "--sample-timeout": {
        "metavar": "SECONDS",
        "help": "a sample that takes longer is invalid as hung (default: by size, 60 s or more)",
    },
    "--warm-up-timeout": {
        "metavar": "SECONDS",
        "help": "a loader whose warm-up load takes longer is left out (default: 300)",
    },
    "--busy-at-most": {
        "metavar": "SHARE",
        "help": (
            "repeat a sample if other programs used more than this share of the cores' time"
            f" (default: {BUSY_VARIABLE}, or {BUSY_AT_MOST:g})"
        ),
    },
    "--budget": {
        "metavar": "SECONDS",
        "help": "time for each cell, in place of its share of the profile's time",
    },
    "--store": {
        "metavar": "DIR",
        "help": (
            "where checkpoints are kept (default: WEIGHBRIDGE_STORE, or the user's cache folder)"
        ),
    },
    "--results": {"metavar": "DIR", "help": "where runs are written (default: results)"},
    "--seed": {
        "metavar": "N",
        "help": "seed of the content and of the order of loaders (default: 0)",
    },
    "--resume": {
        "metavar": "RUN",
        "help": "complete this run with its own options; no sample is taken twice",
    },
}
"""Every option with its `argparse` keywords; all are text or lists of text here, and `parse` gives
them meaning.
"""


_SHAPING: tuple[str, ...] = (
    "profile",
    "key",
    "checkpoints",
    "loaders",
    "cache_states",
    "rounds",
    "budget",
    "parts",
    "ranks",
    "threads",
    "read_ahead_kb",
    "storage",
)
_SHAPING += ("families", "no_ceilings", "sample_timeout", "warm_up_timeout", "busy_at_most", "seed")


def parse(given: dict[str, Any], recorded: dict[str, Any] | None = None) -> Options:
    """Return the options of raw values by name (dashes as underscores, None where not given).

    `recorded` are the options of the run that is resumed. Raises `WeighbridgeError`, in one line
    that lists the names there are, for a name that does not exist or a number that is none.
    """
    if recorded is not None:
        also = [f"--{name.replace('_', '-')}" for name in _SHAPING if given.get(name) is not None]
        if also:
            raise WeighbridgeError(
                f"--resume takes its options from the run it completes; leave out {', '.join(also)}"
            )
        given = given | {name: _as_text(recorded.get(name)) for name in _SHAPING}
    profile = given.get("profile") or "default"
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    models = tuple(_model(text) for text in given.get("model") or ())
    chosen = _names("checkpoint", given.get("checkpoints"), tuple(LAYOUTS))
    return Options(
        profile=profile,
        models=models,
        key=given.get("key"),
        checkpoints=chosen if chosen is not None or not models else (),
        loaders=_names(
            "loader",
            given.get("loaders"),
            tuple(dict.fromkeys(name for kind in KINDS for name in all_loaders(kind))),
        ),
        cache_states=_names("cache state", given.get("cache_states"), CACHE_STATES) or CACHE_STATES,
        rounds=_number("--rounds", given.get("rounds"), int, 1),
        budget=_number("--budget", given.get("budget"), float, 0.0),
        parts=_names("part", given.get("parts"), (*PARTS, *ORDERS, *MEMORY_PARTS)),
        ranks=_numbers("--ranks", given.get("ranks"), 1),
        threads=_threads(given.get("threads")),
        read_ahead_kb=_numbers("--read-ahead-kb", given.get("read_ahead_kb"), 0) or (),
        storage=storage_names(given.get("storage")),
        families=_names("family", given.get("families"), family_names()),
        ceilings=not given.get("no_ceilings"),
        sample_timeout_s=_number("--sample-timeout", given.get("sample_timeout"), float, 0.1)
        or PROFILES[profile].sample_timeout_s,
        warm_up_timeout_s=_number("--warm-up-timeout", given.get("warm_up_timeout"), float, 0.1)
        or PROFILES[profile].warm_up_timeout_s,
        busy_at_most=_share("--busy-at-most", given.get("busy_at_most")),
        store=Path(given["store"]) if given.get("store") else None,
        results=Path(given.get("results") or "results"),
        seed=_number("--seed", given.get("seed"), int, 0) or 0,
        resume=given.get("resume"),
    )


def flat(checkpoints: Iterable[str]) -> tuple[str, ...]:
    """Return those of the checkpoints that are kept as one set of tensors: a pipeline is not."""
    return tuple(name for name in checkpoints if not LAYOUTS[name]().pipeline)


def model_name(path: Path, names: Container[str] = ()) -> str:
    """Return a name for a person's checkpoint: its file's or folder's, or the next folder's up
    where that is what everyone's is called.

    Of a snapshot in the hub's cache, its repository's with the start of its commit. Never one of
    `taken`.
    """
    resolved = path.resolve()
    own = [] if is_index(path) else [resolved.name if path.is_dir() else resolved.stem]
    candidates = [*own, *(parent.name for parent in resolved.parents)]
    chosen = repository_name(path) or next(
        (name for name in candidates if name and name not in _PLAIN_NAMES), "model"
    )
    name = re.sub(r"[^a-z0-9._]+", "-", chosen.lower()).strip("-.") or "model"
    return f"my-{name}" if name in names else name


def _model(text: str) -> Path:
    try:
        return resolve(text)
    except WeighbridgeError as error:
        raise WeighbridgeError(f"--model {error}") from None


def _names(kind: str, text: str | None, known: Sequence[_Name]) -> tuple[_Name, ...] | None:
    """Return the names of a comma-separated list in the order of `known`, None for no list."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    if not names and text:
        raise WeighbridgeError(f"no {kind} is named; there are: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _number(flag: str, text: str | None, kind: type[_Number], least: _Number) -> _Number | None:
    if text is None:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise WeighbridgeError(f"{flag} {text}: not a number") from None
    if not least <= value < float("inf"):
        raise WeighbridgeError(f"{flag} {text}: must be {least} or more")
    return value


def _share(flag: str, text: str | None) -> float:
    """Return the largest share of the cores' time that others may have: as asked for, as the
    environment says, or the usual one.
    """
    flag, text = (
        (flag, text)
        if text is not None
        else (BUSY_VARIABLE, os.environ.get(BUSY_VARIABLE) or str(BUSY_AT_MOST))
    )
    share = _number(flag, text, float, 0.0)
    if share is None or share > 1.0:
        raise WeighbridgeError(
            f"{flag} {text}: a share of the cores' time lies between 0 and 1, such as 0.1"
        )
    return share


def _numbers(flag: str, text: str | None, least: int) -> tuple[int, ...] | None:
    """Return the numbers of a comma-separated list in the order given, each once.

    None for no list.
    """
    if not text:
        return None
    numbers = (_number(flag, part.strip(), int, least) for part in text.split(","))
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def _threads(text: str | None) -> tuple[int, ...]:
    numbers = _numbers("--threads", text, 1) or ()
    for number in numbers:
        if number not in COUNTS:
            raise WeighbridgeError(
                f"--threads {number}: there are loaders with {', '.join(map(str, COUNTS))} threads"
            )
    return numbers


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
