"""What the page promises of `from_pretrained`, `from_ckpt` and a pull request's revision, as data,
and whether what happened keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class PromiseResult(StrEnum):
    """Whether a promise was kept."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_TESTED = "not tested here"


class PromiseAnswer(StrEnum):
    """What a library did when it was called."""

    SAFETENSORS = "safetensors"
    BIN = "bin"
    REFUSED = "refused"
    SAME = "same"
    DIFFERENT = "different"
    READ = "read"
    UNREAD = "unread"
    FAILED = "failed"


_REFUSALS = ("OSError", "ValueError", "ImportError")
"""What a library says no with; any other error is one that it did not mean to raise."""


@dataclass(frozen=True)
class Promise:
    """One promise, under one condition."""

    name: str
    claim: str
    library: str
    condition: str
    """What is called, on what, in words."""
    promised: str
    expected: PromiseAnswer
    """What must happen: the content that is loaded, `refused`, or what a comparison finds."""
    call: str
    """`pipeline`, `text-encoder`, `single-file`, `from-ckpt`, `compare` or `variable`."""
    repository: str
    use_safetensors: bool | None = None
    revision: str | None = None
    package: bool = True
    """Whether safetensors is installed."""
    variable: str | None = None
    """The environment variable that is asked about."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What a person's call has beside the repository."""
        given = {
            "use_safetensors": self.use_safetensors,
            "revision": self.revision,
            "variable": self.variable,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """Whether a promise was kept, what happened, and what a person is told."""

    outcome: PromiseResult
    happened: str
    message: str | None


def judge(promise: Promise, answer: Mapping[str, Any]) -> Verdict:
    """Return what became of a promise, from what the child that put it to the test found.

    A library that cannot even be imported has kept no demand for an error: nobody could make it.
    """
    text = _message(answer)
    if answer.get("stage") == "import":
        if (
            promise.package
            or promise.expected == PromiseAnswer.REFUSED
            or PromiseAnswer.SAFETENSORS not in str(answer["message"])
        ):
            return Verdict(
                PromiseResult.NOT_TESTED,
                f"{promise.library} could not be imported, so no check could run",
                text,
            )
        return Verdict(
            PromiseResult.BROKEN,
            f"{promise.library} could not be imported, so it cannot load anything",
            text,
        )
    observed = _observed(promise, answer)
    return Verdict(
        PromiseResult.KEPT if observed == promise.expected else PromiseResult.BROKEN,
        _happened(promise, observed, answer),
        text,
    )


def _observed(promise: Promise, answer: Mapping[str, Any]) -> str:
    if "read_by" in answer:
        read = promise.library in answer["read_by"]
        return PromiseAnswer.READ if read else PromiseAnswer.UNREAD
    if "differing" in answer:
        return PromiseAnswer.DIFFERENT if answer["differing"] else PromiseAnswer.SAME
    if answer.get("error"):
        return (
            PromiseAnswer.REFUSED
            if any(kind in _REFUSALS for kind in answer["error"])
            else PromiseAnswer.FAILED
        )
    return str(answer["loaded"])


def _happened(promise: Promise, observed: str, answer: Mapping[str, Any]) -> str:
    pickled = ".ckpt" if promise.call == "single-file" else ".bin"
    if observed == PromiseAnswer.SAME:
        return f"all {answer['compared']} tensors are the same"
    if observed == PromiseAnswer.DIFFERENT:
        return (
            f"{len(answer['differing'])} of {answer['compared']} tensors differ, the first is"
            f" {answer['differing'][0]}"
        )
    if observed in (PromiseAnswer.READ, PromiseAnswer.UNREAD):
        readers = ", ".join(answer["read_by"]) or "nothing"
        return f"read by {readers} between its import and the end of the load"
    words = {
        PromiseAnswer.SAFETENSORS: f"loaded the `.safetensors` content, as {answer.get('made')}",
        PromiseAnswer.BIN: f"loaded the `{pickled}` content, as {answer.get('made')}",
        PromiseAnswer.REFUSED: "refused with an error",
        PromiseAnswer.FAILED: "failed with an error that is not a refusal",
        "mixed": f"loaded tensors of both formats, as {answer.get('made')}",
    }
    return words.get(observed, f"made {answer.get('made')} with tensors of neither format")


def _message(answer: Mapping[str, Any]) -> str | None:
    if answer.get("error"):
        return f"{answer['error'][0]}: {answer['message']}"
    return " ".join(answer.get("warnings") or ()) or None


_MAKERS = {
    "pipeline": ("diffusers", "DiffusionPipeline"),
    "text-encoder": ("transformers", "CLIPTextModel"),
}
_REFUSAL = "an error, and no model"
_CONTENT = {
    PromiseAnswer.SAFETENSORS: "the `.safetensors` files",
    PromiseAnswer.BIN: "the `.bin` files",
    PromiseAnswer.REFUSED: _REFUSAL,
}
_HOLDS = {
    "both": "a folder with both formats",
    "only-safetensors": "a folder with `.safetensors` alone",
    "only-bin": "a folder with `.bin` alone",
    "neither": "a folder without weights",
}
_LOCAL: tuple[tuple[str, bool | None, PromiseAnswer, PromiseAnswer], ...] = (
    ("both", None, PromiseAnswer.SAFETENSORS, PromiseAnswer.BIN),
    ("only-safetensors", None, PromiseAnswer.SAFETENSORS, PromiseAnswer.REFUSED),
    ("only-bin", None, PromiseAnswer.BIN, PromiseAnswer.BIN),
    ("neither", None, PromiseAnswer.REFUSED, PromiseAnswer.REFUSED),
    ("both", True, PromiseAnswer.SAFETENSORS, PromiseAnswer.REFUSED),
    ("only-bin", True, PromiseAnswer.REFUSED, PromiseAnswer.REFUSED),
    ("both", False, PromiseAnswer.BIN, PromiseAnswer.BIN),
    ("only-safetensors", False, PromiseAnswer.REFUSED, PromiseAnswer.REFUSED),
)
"""What the repository holds, what `use_safetensors` is, and what is promised with safetensors
installed and without it.
"""


def _local() -> Iterator[Promise]:
    """Yield C8: `.safetensors` by itself where the repository has it, and by demand."""
    for package in (True, False):
        for call, (library, maker) in _MAKERS.items():
            for repository, demand, expected, otherwise in _LOCAL:
                promised = expected if package else otherwise
                word = {None: "by-itself", True: "demanded", False: "declined"}[demand]
                argument = "" if demand is None else f", use_safetensors={demand}"
                condition = (
                    f"`{maker}.from_pretrained(folder{argument})`,"
                    f" {_HOLDS[repository]}{'' if package else ', safetensors not installed'}"
                )
                name = f"{call}-{repository}-{word}{'' if package else '-without-package'}"
                yield Promise(
                    name,
                    "C8",
                    library,
                    condition,
                    _CONTENT[promised],
                    promised,
                    call,
                    repository,
                    use_safetensors=demand,
                    package=package,
                )


def _single_files() -> Iterator[Promise]:
    """Yield C9: all weights in one file."""
    for repository, suffix in (
        (PromiseAnswer.SAFETENSORS, ".safetensors"),
        (PromiseAnswer.BIN, ".ckpt"),
    ):
        condition = (
            f"`StableDiffusionPipeline.from_single_file(file, config=folder)`, a `{suffix}` file"
        )
        name = f"single-file-{suffix[1:]}"
        yield Promise(
            name,
            "C9",
            "diffusers",
            condition,
            f"the whole pipeline of the `{suffix}` file",
            repository,
            "single-file",
            repository,
        )
    condition = (
        "`StableDiffusionPipeline.from_ckpt(file)`, the documented name, with a `.ckpt` file"
    )
    yield Promise(
        "from-ckpt",
        "C9",
        "diffusers",
        condition,
        "the whole pipeline of the `.ckpt` file",
        PromiseAnswer.BIN,
        "from-ckpt",
        PromiseAnswer.BIN,
    )


def _revisions(pull_request: str = "refs/pr/22") -> Iterator[Promise]:
    """Yield C11: a converted checkpoint that is not merged, by its revision, and checked before
    use.
    """
    cache = "a hub's cache, offline, with `.bin` on main and `.safetensors` in pull request 22"
    revisions: tuple[tuple[str, str | None, bool | None, PromiseAnswer, str], ...] = (
        (
            "pull-request",
            pull_request,
            None,
            PromiseAnswer.SAFETENSORS,
            "the pull request's `.safetensors` files",
        ),
        ("main", None, None, PromiseAnswer.BIN, "main's `.bin` files"),
        ("main-demanded", None, True, PromiseAnswer.REFUSED, _REFUSAL),
        ("no-such-revision", "refs/pr/23", None, PromiseAnswer.REFUSED, _REFUSAL),
    )
    for call, (library, maker) in _MAKERS.items():
        for word, revision, demand, expected, promised in revisions:
            given = (f', revision="{revision}"' if revision else "") + (
                "" if demand is None else f", use_safetensors={demand}"
            )
            condition = f"`{maker}.from_pretrained(name{given})`, {cache}"
            yield Promise(
                f"{call}-{word}",
                "C11",
                library,
                condition,
                promised,
                expected,
                call,
                "told-apart",
                demand,
                revision,
            )
    for repository, expected, promised in (
        ("faithful", PromiseAnswer.SAME, "all tensors are reported as the same"),
        ("tampered", PromiseAnswer.DIFFERENT, "the changed tensor is reported"),
    ):
        what = (
            "main converted"
            if repository == "faithful"
            else "main converted, with one number of one tensor changed"
        )
        condition = (
            "the tensors of pull request 22 are compared with main's before a model is made; the "
            f"pull request is {what}"
        )
        yield Promise(
            f"compare-{repository}",
            "C11",
            "huggingface_hub",
            condition,
            promised,
            expected,
            "compare",
            repository,
            revision=pull_request,
        )


_VARIABLES = (
    ("transformers", "HF_DEACTIVATE_ASYNC_LOAD"),
    ("transformers", "HF_ENABLE_PARALLEL_LOADING"),
    ("diffusers", "HF_ENABLE_PARALLEL_LOADING"),
)
"""Which library documents which variable that is about threads."""


def _variables() -> Iterator[Promise]:
    """Yield F5: the variables that are documented to load by threads are read at all."""
    for library, variable in _VARIABLES:
        call = next(call for call, (owner, _) in _MAKERS.items() if owner == library)
        yield Promise(
            f"variable-{library}-{variable.lower().replace('_', '-')}",
            "F5",
            library,
            f"`{variable}=1`, `{_MAKERS[call][1]}.from_pretrained(folder)`",
            f"{library} reads the variable that it documents",
            PromiseAnswer.READ,
            "variable",
            "only-safetensors",
            variable=variable,
        )


PROMISES = (*_local(), *_single_files(), *_revisions(), *_variables())
"""Every check there is, in the order it is carried out."""
