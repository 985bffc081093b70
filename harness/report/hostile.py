"""The part of a page about hostile files: how each loader took them, every surprise, the header's edge, and what scanners saw."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.hostile import BROKEN, CODE, LIE, MEMORY, NONE, TIME
from harness.measure.outcome import CRASHED, HUNG, LOADED, OUTCOMES, RAN, REFUSED, STARVED
from harness.records.meetings import HOSTILE_FILES, Meeting
from harness.report.drawing import BLACK, ORANGE, PURPLE, SKY, VERMILLION, Drawn, heading, rows
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.terminal import WIDTH
from harness.report.words import megabytes, significant, time_text
from harness.verdicts.hostile import (
    FALSE_ALARM,
    FOUND,
    MISSED,
    QUICK_S,
    SMALL_BYTES,
    SURPRISES,
    File,
    Guest,
    accounts,
    files_of,
    growth,
    guests_of,
    scanned,
    surprise,
    surprises,
)

_SAFETENSORS, _PICKLE = "safetensors-", ("pickle-load", "torch-load-unsafe", "torch-load")
_COLOURS = {REFUSED: "#D0D0D0", LOADED: SKY, RAN: VERMILLION, CRASHED: BLACK, STARVED: ORANGE, HUNG: PURPLE}
_HARM = {
    CODE: "with a payload that runs code",
    MEMORY: "that ask for memory",
    TIME: "that take time",
    LIE: "that lie",
    BROKEN: "that are broken",
    NONE: "that are harmless",
}
_EDGE = ("cap-padded.safetensors", "cap-text.safetensors", "cap-text-over.safetensors")
_BEFORE_RECORDED: Mapping[str, Any] = {"timeout_s": 2.0, "memory_bytes": 1 << 29}
"""The limits of the runs that did not record theirs."""


def _reading(manifest: Mapping[str, Any]) -> str:
    """Return how the tables are to be read, under the limits that the run recorded."""
    limits = manifest.get("hostile_limits") or _BEFORE_RECORDED
    return f"""
Every file of a corpus is given to every loader, each time in a process of its own that is held to {limits["memory_bytes"] >> 20} MiB of memory beyond its own, {limits["timeout_s"]:g} s
(the largest headers have longer), few files and processes, and that can write nowhere but in its own folder. Nothing in the corpus does harm: a payload leaves a file there, the
canary, and *ran code* means that the canary was found. *loaded* means that the call came back and that every page of every tensor could be
read. A surprise is anything but the refusal of a bad file within {QUICK_S:g} s and {SMALL_BYTES >> 20} MiB by an error that says what is wrong with the file, not
one of code gone wrong (`KeyError`, `TypeError` and their like); for a harmless file, its refusal by a loader of its own container is one.
""".strip()


def hostile_files(place: Place, manifest: Mapping[str, Any], meetings: Sequence[Meeting]) -> list[str]:
    """Return the blocks of Markdown about hostile files, none where the run met none; every row is written as CSV."""
    files, guests = files_of(manifest), guests_of(manifest)
    if not meetings:
        return []
    harms = Counter(file.harm for file in files.values())
    told = ", ".join(f"{count} {_HARM[harm]}" for harm, count in harms.most_common())
    return [
        place.heading("Hostile files"),
        f"{len(meetings):,} meetings with {len(files)} files: {told}. {hostile_answer(manifest, meetings)}",
        _reading(manifest),
        *place.figure(lambda: _draw(meetings, guests)),
        markdown(outcomes_table(meetings, guests)),
        f"In plain figures: {place.table('hostile-files', meetings_frame(meetings, files, guests))}",
        *_edge(place, meetings, files, guests),
        place.heading("Every surprise", 2),
        "Of each kind and each file that shows it, the loaders; the file is the smallest that does for those loaders. Gravest first.",
        markdown(surprises_table(meetings, files, guests)),
        f"In plain figures, loader by loader: {place.table('surprises', surprises_frame(meetings, files, guests))}",
    ]


def hostile_answer(manifest: Mapping[str, Any], meetings: Sequence[Meeting]) -> str:
    """Return in a sentence what ran code and what did not; nothing where no loader met a file with a payload."""
    files = files_of(manifest)
    code = sum(file.harm == CODE for file in files.values())
    ran = Counter(meeting.loader for meeting in meetings if meeting.outcome == RAN)
    met = dict.fromkeys(meeting.loader for meeting in meetings if meeting.scenario == HOSTILE_FILES)
    safe = [loader for loader in met if loader.startswith(_SAFETENSORS)]
    said = [f"**`{loader}` ran code of {ran[loader]}**" for loader in (*_PICKLE, *sorted(set(ran) - set(_PICKLE))) if loader in met]
    if safe:
        said.append(f"**the {len(safe)} loaders of the safetensors library together of {sum(ran[loader] for loader in safe)}**")
    return f"Of the {code} files with a payload, {', '.join(said)}." if said and code else ""


def outcomes_table(meetings: Sequence[Meeting], guests: Mapping[str, Guest]) -> pd.DataFrame:
    """Return one row for each loader: its container, how many meetings ended in each way, the longest and the largest."""
    heads = ["loader", "container", *OUTCOMES, "longest", "most memory, MB"]
    found = []
    for one in accounts(meetings, guests):
        longest = f"{time_text(one.slowest.seconds)}, {one.slowest.file}" if one.slowest else "unknown"
        most = f"{megabytes(one.growth)}, {one.largest.file}" if one.largest else "unknown"
        found.append([one.loader, guests[one.loader].container, *(one.counts.get(outcome, 0) for outcome in OUTCOMES), longest, most])
    return pd.DataFrame(found, columns=heads)


def meetings_frame(meetings: Sequence[Meeting], files: Mapping[str, File], guests: Mapping[str, Guest]) -> pd.DataFrame:
    """Return one row for each loader and outcome that it had: how often, the longest in s, the most memory in bytes beyond its own."""
    found = []
    for one in accounts(meetings, guests):
        for outcome in OUTCOMES:
            these = [meeting for meeting in meetings if (meeting.loader, meeting.outcome) == (one.loader, outcome)]
            grown = [size for meeting in these if (size := growth(meeting, guests[one.loader])) is not None]
            found.append(
                {
                    "loader": one.loader,
                    "container": guests[one.loader].container,
                    "outcome": outcome,
                    "meetings": len(these),
                    "with_payload": sum(files[meeting.file].harm == CODE for meeting in these),
                    "harmless": sum(files[meeting.file].harm == NONE for meeting in these),
                    "longest_s": max((meeting.seconds for meeting in these), default=None),
                    "growth_bytes": max(grown, default=None),
                }
            )
    return pd.DataFrame(found).astype({"growth_bytes": "Int64"})


def surprises_frame(meetings: Sequence[Meeting], files: Mapping[str, File], guests: Mapping[str, Guest]) -> pd.DataFrame:
    """Return one row for each kind of surprise with each loader, the gravest first: how many files gave it, and the smallest that does."""
    found = [
        {
            "kind": one.kind,
            "loader": one.loader,
            "files": one.count,
            "smallest": one.smallest.name,
            "bytes": one.smallest.bytes,
            "what_is_wrong": one.smallest.says,
            "error": one.meeting.error,
            "seconds": one.meeting.seconds,
        }
        for one in surprises(meetings, files, guests)
    ]
    return pd.DataFrame(found, columns=["kind", "loader", "files", "smallest", "bytes", "what_is_wrong", "error", "seconds"])


def surprises_table(meetings: Sequence[Meeting], files: Mapping[str, File], guests: Mapping[str, Guest]) -> pd.DataFrame:
    """Return the same rows with those loaders together that have the same smallest file."""
    together: dict[tuple[str, str], list[Any]] = {}
    for one in surprises(meetings, files, guests):
        together.setdefault((one.kind, one.smallest.name), []).append(one)
    found = [
        [
            kind,
            f"{name}, {these[0].smallest.bytes:,} bytes: {these[0].smallest.says}",
            ", ".join(f"{one.loader} ({one.count})" for one in these),
            these[0].meeting.error or "nothing",
        ]
        for (kind, name), these in sorted(together.items(), key=lambda item: SURPRISES.index(item[0][0]))
    ]
    return pd.DataFrame(found, columns=["surprise", "smallest file", "loaders (how many files)", "what the first of them says"])


def _edge(place: Place, meetings: Sequence[Meeting], files: Mapping[str, File], guests: Mapping[str, Guest]) -> list[str]:
    """Return the part on the header's exact limit, nothing where no loader of safetensors met it."""
    met = {(meeting.loader, meeting.file): meeting for meeting in meetings if meeting.file in _EDGE and meeting.scenario == HOSTILE_FILES}
    names = [name for name, guest in guests.items() if guest.container == "safetensors" and all((name, file) in met for file in _EDGE)]
    if not names:
        return []
    heads = ["loader", *(f"{file.removesuffix('.safetensors')}: {what}" for file in _EDGE for what in ("outcome", "s", "MB"))]
    found, plain = [], []
    for name in names:
        row: list[object] = [name]
        for file in _EDGE:
            meeting = met[name, file]
            grown = growth(meeting, guests[name])
            row += [meeting.outcome, significant(meeting.seconds), megabytes(grown)]
            plain.append(
                {
                    "loader": name,
                    "file": file,
                    "outcome": meeting.outcome,
                    "seconds": meeting.seconds,
                    "growth_bytes": grown,
                    "error": meeting.error,
                }
            )
        found.append(row)
    told = "; ".join(f"*{file.removesuffix('.safetensors')}*: {files[file].says}" for file in _EDGE)
    return [
        place.heading("The header at its limit", 2),
        f"The library takes a header of 100,000,000 bytes and no more. {told}. MB is memory beyond the process's own, mapped pages included.",
        markdown(pd.DataFrame(found, columns=heads)),
        f"In plain figures: {place.table('header-limit', pd.DataFrame(plain).astype({'growth_bytes': 'Int64'}))}",
    ]


def _draw(meetings: Sequence[Meeting], guests: Mapping[str, Guest]) -> tuple[Figure, Drawn] | None:
    """Draw a bar for each loader, divided by how its meetings ended."""
    found = accounts(meetings, guests)
    if not found:
        return None
    figure = Figure(figsize=(9.0, 1.4 + 0.26 * len(found)), layout="constrained")
    axes = figure.subplots()
    start = [0] * len(found)
    for outcome in OUTCOMES:
        lengths = [one.counts.get(outcome, 0) for one in found]
        axes.barh(range(len(found)), lengths, left=start, color=_COLOURS[outcome], label=outcome, height=0.72)
        for row, (at, length) in enumerate(zip(start, lengths, strict=True)):
            if length and outcome != REFUSED:
                axes.text(
                    at + length / 2,
                    row,
                    str(length),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if outcome in (RAN, CRASHED) else "#111111",
                )
        start = [at + length for at, length in zip(start, lengths, strict=True)]
    rows(axes, [one.loader for one in found])
    axes.set_xlabel("files of the corpus")
    axes.set_xlim(0, max(start))
    axes.legend(ncols=len(OUTCOMES), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    heading(figure, "How each loader's meetings with hostile files ended")
    ran = [f"{one.loader} {one.counts[RAN]}" for one in found if one.counts.get(RAN)]
    return figure, Drawn(
        "hostile-files.svg",
        f"Bars of how meetings with {max(start)} hostile files ended, a bar for each of {len(found)} loaders; code ran in: {', '.join(ran) or 'none'}",
        "a bar is a loader, its parts are how many files it refused, loaded, ran code of, crashed on, ran out of memory or hung on. Much grey is "
        "good; red is what the page warns of. What was loaded may be harmless, or a lie that was believed: the table of surprises tells.",
    )


def meetings_lines(manifest: Mapping[str, Any], meetings: Sequence[Meeting]) -> list[str]:
    """Return how the meetings of a run ended as lines of a terminal; nothing where there was none."""
    if not meetings:
        return []
    files, guests = files_of(manifest), guests_of(manifest)
    lines = [
        f"hostile files: {len(meetings):,} meetings with {len(files)} files. {hostile_answer(manifest, meetings).replace('*', '').replace('`', '')}"
    ]
    for one in accounts(meetings, guests):
        counts = ", ".join(f"{outcome} {one.counts[outcome]}" for outcome in OUTCOMES if one.counts.get(outcome))
        kinds = Counter(
            kind
            for meeting in meetings
            if meeting.loader == one.loader and (kind := surprise(meeting, files[meeting.file], guests[one.loader]))
        )
        lines.append(f"{one.loader}: {counts}; surprises {sum(kinds.values())}")
    for name, groups in scanned(meetings, files).items():
        code, harmless = groups["code"], groups["harmless"]
        lines.append(
            f"{name}: of {code.total()} with a payload found {code[FOUND]}, missed {code[MISSED]}; "
            f"of {harmless.total()} harmless ones false alarms {harmless[FALSE_ALARM]}"
        )
    return [line for text in lines for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
