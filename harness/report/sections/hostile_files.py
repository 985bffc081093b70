"""The part of a page about hostile files: how each loader took them, every surprise, the header's
edge, and what scanners saw.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.hostile import (
    QUICK_S,
    SMALL_BYTES,
    SURPRISES,
    File,
    LoaderUnderTest,
    ScannerResult,
    accounts,
    files_of,
    growth,
    loaders_of,
    scanned,
    surprise,
    surprises,
)
from harness.analysis.recorded_run import RecordedRun
from harness.records.trials import Harm, Outcome, Trial
from harness.report.figures.style import (
    BLACK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Drawn,
    heading,
    rows,
)
from harness.report.format import megabytes, significant, time_text
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.report.terminal import WIDTH
from harness.scenarios import HOSTILE_FILES

_SAFETENSORS, _PICKLE = "safetensors-", ("pickle-load", "torch-load-unsafe", "torch-load")
_COLOURS = {
    Outcome.REFUSED: "#D0D0D0",
    Outcome.LOADED: SKY,
    Outcome.RAN: VERMILLION,
    Outcome.CRASHED: BLACK,
    Outcome.STARVED: ORANGE,
    Outcome.HUNG: PURPLE,
}
_HARM = {
    Harm.CODE: "with a payload that runs code",
    Harm.MEMORY: "that ask for memory",
    Harm.TIME: "that take time",
    Harm.LIE: "that lie",
    Harm.BROKEN: "that are broken",
    Harm.NONE: "that are harmless",
}
_EDGE = ("cap-padded.safetensors", "cap-text.safetensors", "cap-text-over.safetensors")
_BEFORE_RECORDED: Mapping[str, Any] = {"timeout_s": 2.0, "memory_bytes": 1 << 29}
"""The limits of runs that did not record their own."""


def _reading(manifest: Mapping[str, Any]) -> str:
    """Return how the tables are to be read, under the limits that the run recorded."""
    limits = manifest.get("hostile_limits") or _BEFORE_RECORDED
    return f"""
Every loader gets every file of the corpus, each time in its own process. The limits of that process
are {limits["memory_bytes"] >> 20} MiB of memory growth, {limits["timeout_s"]:g} s (more for the
largest headers), and few files and processes. It can only write in its own folder. Nothing in the
corpus does harm: a payload creates one file there, the canary. *ran code* means that the canary was
found. *loaded* means that the call returned and every page of every tensor could be read. A bad
file should be refused within {QUICK_S:g} s and {SMALL_BYTES >> 20} MiB, with an error that says
what is wrong with the file. Anything else is a surprise, and so is an error of broken code
(`KeyError`, `TypeError` and similar). For a harmless file, a refusal by a loader of its own format
is a surprise.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about hostile files, none where the run met none.

    Every row is written as CSV.
    """
    manifest, trials = run.manifest, run.trials
    files, loaders = files_of(manifest), loaders_of(manifest)
    if not trials:
        return []
    harms = Counter(file.harm for file in files.values())
    message = ", ".join(f"{count} {_HARM[harm]}" for harm, count in harms.most_common())
    return [
        writer.title(HOSTILE_FILES),
        (
            f"{len(trials):,} trials with {len(files)} files: {message}."
            f" {hostile_answer(manifest, trials)}"
        ),
        _reading(manifest),
        *writer.figure(lambda: _draw(trials, loaders)),
        markdown(outcomes_table(trials, loaders)),
        f"As CSV: {writer.table('hostile-files', trials_frame(trials, files, loaders))}",
        *_edge(writer, trials, files, loaders),
        writer.heading("Every surprise", 2),
        (
            "Each row names a kind of surprise, the smallest file that shows it, and the loaders "
            "that it happens to. The gravest kind comes first."
        ),
        markdown(surprises_table(trials, files, loaders)),
        (
            "As CSV, loader by loader:"
            f" {writer.table('surprises', surprises_frame(trials, files, loaders))}"
        ),
    ]


def hostile_answer(manifest: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Return in a sentence what ran code and what did not.

    Nothing where no loader met a file with a payload.
    """
    files = files_of(manifest)
    code = sum(file.harm == Harm.CODE for file in files.values())
    ran = Counter(trial.loader for trial in trials if trial.outcome == Outcome.RAN)
    met = dict.fromkeys(trial.loader for trial in trials if trial.scenario == HOSTILE_FILES)
    safe = [loader for loader in met if loader.startswith(_SAFETENSORS)]
    phrases = [
        f"**`{loader}` ran code of {ran[loader]}**"
        for loader in (*_PICKLE, *sorted(set(ran) - set(_PICKLE)))
        if loader in met
    ]
    if safe:
        phrases.append(
            f"**the {len(safe)} loaders of the safetensors library together of"
            f" {sum(ran[loader] for loader in safe)}**"
        )
    return f"Of the {code} files with a payload, {', '.join(phrases)}." if phrases and code else ""


def outcomes_table(trials: Sequence[Trial], loaders: Mapping[str, LoaderUnderTest]) -> pd.DataFrame:
    """Return one row for each loader: its format, how many trials ended in each way, the longest
    and the largest.
    """
    heads = ["loader", "format", *Outcome, "longest", "most memory, MB"]
    results = []
    for account in accounts(trials, loaders):
        longest = (
            f"{time_text(account.slowest.seconds)}, {account.slowest.file}"
            if account.slowest
            else "unknown"
        )
        most = (
            f"{megabytes(account.growth)}, {account.largest.file}" if account.largest else "unknown"
        )
        results.append(
            [
                account.loader,
                loaders[account.loader].format,
                *(account.counts.get(outcome, 0) for outcome in Outcome),
                longest,
                most,
            ]
        )
    return pd.DataFrame(results, columns=heads)


def trials_frame(
    trials: Sequence[Trial], files: Mapping[str, File], loaders: Mapping[str, LoaderUnderTest]
) -> pd.DataFrame:
    """Return one row for each loader and outcome that it had: how often, the longest in s, the most
    memory in bytes beyond its own.
    """
    results = []
    for account in accounts(trials, loaders):
        for outcome in Outcome:
            these = [
                trial
                for trial in trials
                if (trial.loader, trial.outcome) == (account.loader, outcome)
            ]
            grown = [
                size
                for trial in these
                if (size := growth(trial, loaders[account.loader])) is not None
            ]
            results.append(
                {
                    "loader": account.loader,
                    "format": loaders[account.loader].format,
                    "outcome": outcome,
                    "trials": len(these),
                    "with_payload": sum(files[trial.file].harm == Harm.CODE for trial in these),
                    "harmless": sum(files[trial.file].harm == Harm.NONE for trial in these),
                    "longest_s": max((trial.seconds for trial in these), default=None),
                    "growth_bytes": max(grown, default=None),
                }
            )
    return pd.DataFrame(results).astype({"growth_bytes": "Int64"})


def surprises_frame(
    trials: Sequence[Trial], files: Mapping[str, File], loaders: Mapping[str, LoaderUnderTest]
) -> pd.DataFrame:
    """Return one row for each kind of surprise with each loader, the gravest first: how many files
    gave it, and the smallest that does.
    """
    rows = [
        {
            "kind": surprise.kind,
            "loader": surprise.loader,
            "files": surprise.count,
            "smallest": surprise.smallest.name,
            "bytes": surprise.smallest.bytes,
            "what_is_wrong": surprise.smallest.says,
            "error": surprise.trial.error,
            "seconds": surprise.trial.seconds,
        }
        for surprise in surprises(trials, files, loaders)
    ]
    return pd.DataFrame(
        rows,
        columns=[
            "kind",
            "loader",
            "files",
            "smallest",
            "bytes",
            "what_is_wrong",
            "error",
            "seconds",
        ],
    )


def surprises_table(
    trials: Sequence[Trial], files: Mapping[str, File], loaders: Mapping[str, LoaderUnderTest]
) -> pd.DataFrame:
    """Return the same rows with those loaders together that have the same smallest file."""
    together: dict[tuple[str, str], list[Any]] = {}
    for entry in surprises(trials, files, loaders):
        together.setdefault((entry.kind, entry.smallest.name), []).append(entry)
    rows = [
        [
            kind,
            f"{name}, {these[0].smallest.bytes:,} bytes: {these[0].smallest.says}",
            ", ".join(f"{entry.loader} ({entry.count})" for entry in these),
            these[0].trial.error or "nothing",
        ]
        for (kind, name), these in sorted(
            together.items(), key=lambda item: SURPRISES.index(item[0][0])
        )
    ]
    return pd.DataFrame(
        rows,
        columns=[
            "surprise",
            "smallest file",
            "loaders (how many files)",
            "what the first of them says",
        ],
    )


def _edge(
    writer: SectionWriter,
    trials: Sequence[Trial],
    files: Mapping[str, File],
    loaders: Mapping[str, LoaderUnderTest],
) -> list[str]:
    """Return the part on the header's exact limit, nothing where no loader of safetensors met
    it.
    """
    met = {
        (trial.loader, trial.file): trial
        for trial in trials
        if trial.file in _EDGE and trial.scenario == HOSTILE_FILES
    }
    names = [
        name
        for name, tested in loaders.items()
        if tested.format == "safetensors" and all((name, file) in met for file in _EDGE)
    ]
    if not names:
        return []
    heads = [
        "loader",
        *(
            f"{file.removesuffix('.safetensors')}: {what}"
            for file in _EDGE
            for what in ("outcome", "s", "MB")
        ),
    ]
    results, plain = [], []
    for name in names:
        row: list[object] = [name]
        for file in _EDGE:
            trial = met[name, file]
            grown = growth(trial, loaders[name])
            row += [trial.outcome, significant(trial.seconds), megabytes(grown)]
            plain.append(
                {
                    "loader": name,
                    "file": file,
                    "outcome": trial.outcome,
                    "seconds": trial.seconds,
                    "growth_bytes": grown,
                    "error": trial.error,
                }
            )
        results.append(row)
    message = "; ".join(
        f"*{file.removesuffix('.safetensors')}*: {files[file].says}" for file in _EDGE
    )
    frame = pd.DataFrame(plain).astype({"growth_bytes": "Int64"})
    return [
        writer.heading("The header at its limit", 2),
        (
            f"The library accepts a header of at most 100,000,000 bytes. {message}. MB is the "
            "growth of the process's memory, including mapped pages."
        ),
        markdown(pd.DataFrame(results, columns=heads)),
        f"As CSV: {writer.table('header-limit', frame)}",
    ]


def _draw(
    trials: Sequence[Trial], loaders: Mapping[str, LoaderUnderTest]
) -> tuple[Figure, Drawn] | None:
    """Draw a bar for each loader, divided by how its trials ended."""
    of_loaders = accounts(trials, loaders)
    if not of_loaders:
        return None
    figure = Figure(figsize=(9.0, 1.4 + 0.26 * len(of_loaders)), layout="constrained")
    axes = figure.subplots()
    start = [0] * len(of_loaders)
    for outcome in Outcome:
        lengths = [account.counts.get(outcome, 0) for account in of_loaders]
        axes.barh(
            range(len(of_loaders)),
            lengths,
            left=start,
            color=_COLOURS[outcome],
            label=outcome,
            height=0.72,
        )
        for row, (at, length) in enumerate(zip(start, lengths, strict=True)):
            if length and outcome != Outcome.REFUSED:
                axes.text(
                    at + length / 2,
                    row,
                    str(length),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if outcome in (Outcome.RAN, Outcome.CRASHED) else "#111111",
                )
        start = [at + length for at, length in zip(start, lengths, strict=True)]
    rows(axes, [account.loader for account in of_loaders])
    axes.set_xlabel("files of the corpus")
    axes.set_xlim(0, max(start))
    axes.legend(ncols=len(Outcome), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    heading(figure, "How each loader's trials of hostile files ended")
    ran = [
        f"{account.loader} {account.counts[Outcome.RAN]}"
        for account in of_loaders
        if account.counts.get(Outcome.RAN)
    ]
    return figure, Drawn(
        "hostile-files.svg",
        f"Bars that show how trials with {max(start)} hostile files ended, a bar for each of "
        f"{len(of_loaders)} loaders; code ran in: {', '.join(ran) or 'none'}",
        "each bar is a loader, and each part counts the files with one outcome: refused, loaded, "
        "ran code, crashed, ran out of memory or hung. Much grey is good, and red is what the "
        "page warns of. A loaded file may be harmless or may lie about itself; the table of "
        "surprises says which",
    )


def trials_lines(manifest: Mapping[str, Any], trials: Sequence[Trial]) -> list[str]:
    """Return how the trials of a run ended as lines of a terminal; nothing where there was none."""
    if not trials:
        return []
    files, loaders = files_of(manifest), loaders_of(manifest)
    lines = [
        f"hostile files: {len(trials):,} trials with {len(files)} files."
        f" {hostile_answer(manifest, trials).replace('*', '').replace('`', '')}"
    ]
    for account in accounts(trials, loaders):
        counts = ", ".join(
            f"{outcome} {account.counts[outcome]}"
            for outcome in Outcome
            if account.counts.get(outcome)
        )
        kinds = Counter(
            kind
            for trial in trials
            if trial.loader == account.loader
            and (kind := surprise(trial, files[trial.file], loaders[account.loader]))
        )
        lines.append(f"{account.loader}: {counts}; surprises {sum(kinds.values())}")
    for name, groups in scanned(trials, files).items():
        code, harmless = groups["code"], groups["harmless"]
        caught, missed = code[ScannerResult.FOUND], code[ScannerResult.MISSED]
        false = harmless[ScannerResult.FALSE_ALARM]
        lines.append(
            f"{name}: with a payload: {caught} of {code.total()} found, {missed} missed; "
            f"harmless: {false} of {harmless.total()} false alarms"
        )
    return [
        line
        for text in lines
        for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]
