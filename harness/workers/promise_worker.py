"""One promise put to the test, in a forked child of a process that has imported the libraries: what
was loaded, or what a person is told.

Run as `python -m harness.workers.promise_worker PARENT`, PARENT being the process it must not
outlive; also run without safetensors, so nothing here may import it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.checkpoints.digest import tensor_digests
from harness.records.privacy import without_paths
from harness.workers.protocol import Answer, fork, serve

IMPORT, CALL = "import", "call"
"""What a child was at when an error was raised."""
_CLASSES = {
    "pipeline": ("diffusers", "DiffusionPipeline"),
    "single-file": ("diffusers", "StableDiffusionPipeline"),
    "from-ckpt": ("diffusers", "StableDiffusionPipeline"),
    "text-encoder": ("transformers", "CLIPTextModel"),
}
_COMPONENTS = ("unet", "text_encoder", "vae")
_OF_TORCH = ("torch", "torch._dynamo")  # the second is most of what importing diffusers takes
_LIBRARIES = (*_OF_TORCH, "transformers", "diffusers")
_MESSAGE_LINES, _MESSAGE_LENGTH = 4, 500
_READERS: dict[str, set[str]] = {}
"""The packages that read each environment variable so far, by the variable."""


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    _watch_variables()
    serve({"prepare": prepare, "attempt": attempt})


def prepare(_: Answer) -> Answer:
    """Import what the checks use, as far as that goes.

    Return whether safetensors can be imported here.
    """
    safetensors = importlib.util.find_spec("safetensors") is not None
    for library in (
        _LIBRARIES if safetensors else _OF_TORCH
    ):  # what fails halfway would leave half of itself behind for the children
        with suppress(Exception):  # a child then meets the same, and tells it
            importlib.import_module(library)
    if safetensors:
        for library, name in _CLASSES.values():
            with suppress(Exception):
                getattr(importlib.import_module(library), name)
    return {"safetensors": safetensors}


def attempt(request: Answer) -> Answer:
    """Return what one call did, in a child of its own.

    {"failure", "detail"} where the child ended before it could tell.
    """
    return fork(lambda: _attempt(request), request["timeout_s"])


def _attempt(request: Answer) -> Answer:
    _silence()
    call = request["call"]
    stage = IMPORT
    text: list[str] = []
    try:
        if call == "compare":
            return _compare(request)
        if call == "variable":
            return _readers(request)
        maker = _maker(call)
        stage = CALL
        with _heard(text):
            loaded = _call(maker, request)
        return {
            "loaded": _which(loaded, request),
            "made": type(loaded).__name__,
            "warnings": text[:3],
        }
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {
            "loaded": None,
            "stage": stage,
            "error": kinds,
            "message": first_lines(error),
            "warnings": text[:3],
        }


def first_lines(error: BaseException) -> str:
    """Return the first lines of an error's message on one line, of bounded length and without
    absolute paths.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:_MESSAGE_LINES]
    text = without_paths(" ".join(lines))
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}…"


def _silence() -> None:
    """Let nothing that a library prints or draws reach the person's terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _watch_variables() -> None:
    """Note from now on which package reads which environment variable, set or not."""
    kind = type(os.environ)
    read = kind.__getitem__

    def noted(environment: Any, name: str) -> str:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__") in ("os", "collections.abc"):
            frame = frame.f_back
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        _READERS.setdefault(name, set()).add(package)
        return read(environment, name)

    kind.__getitem__ = noted  # type: ignore[method-assign]  # the one place that all ways come by


def _readers(request: Answer) -> Answer:
    """Load with a variable set and return the packages that read it: {"read_by", "warnings"}."""
    variable = request["asked"]["variable"]
    os.environ[variable] = "1"
    with suppress(Exception):  # whether it loads is asked elsewhere
        _call(_maker("text-encoder"), request | {"call": "text-encoder", "asked": {}})
    return {"loaded": None, "read_by": sorted(_READERS.get(variable, ())), "warnings": []}


def _maker(call: str) -> Any:
    library, name = _CLASSES[call]
    return getattr(importlib.import_module(library), name)


def _call(maker: Any, request: Answer) -> Any:
    import torch

    where, call = request["where"], request["call"]
    if call == "from-ckpt":
        return maker.from_ckpt(where)  # as the page has it
    parameters: Answer = {"dtype": torch.float16, "local_files_only": True} | request["asked"]
    if call == "single-file":
        return maker.from_single_file(
            where, config=str(Path(where).parent / "configuration"), **parameters
        )
    if call == "text-encoder":
        parameters["subfolder"] = "text_encoder"
    return maker.from_pretrained(where, **parameters)


def _which(loaded: Any, request: Answer) -> str:
    """Return which content was loaded, `mixed` where some tensors are of one and some of another,
    `neither` where any is of none.
    """
    parts = (
        {"text_encoder": loaded}
        if request["call"] == "text-encoder"
        else {part: getattr(loaded, part) for part in _COMPONENTS}
    )
    by_name = tensor_digests(
        {
            f"{part}.{_published(part, name)}": tensor
            for part, net in parts.items()
            for name, tensor in _tensors(net)
        }
    )
    contents: dict[str, dict[str, str]] = json.loads(
        Path(request["contents"]).read_text(encoding="utf-8")
    )
    return which(by_name, {kind: _of_parts(digests, parts) for kind, digests in contents.items()})


def which(by_name: Mapping[str, str], contents: Mapping[str, Mapping[str, str]]) -> str:
    """Return the name of the content whose every tensor is held, by digests.

    Else `mixed` or `neither`.
    """
    for kind, digests in contents.items():
        if all(by_name.get(name) == digest for name, digest in digests.items()):
            return kind
    names = {name for digests in contents.values() for name in digests}
    known = all(
        any(digests.get(name) == by_name.get(name) for digests in contents.values())
        for name in names
    )
    return "mixed" if known else "neither"


def _tensors(network: Any) -> Iterator[tuple[str, Any]]:
    yield from network.state_dict().items()


def _published(part: str, name: str) -> str:
    """Return a tensor's name as published: transformers 5.6 took `text_model.` out of the encoder's
    names, not out of its files.
    """
    return (
        f"text_model.{name}"
        if part == "text_encoder" and not name.startswith("text_model.")
        else name
    )


def _of_parts(digests: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if name.partition(".")[0] in parts}


def _compare(request: Answer) -> Answer:
    """Return which tensors of a revision's `.safetensors` are not those of main's `.bin`, and how
    many those are; no model is made.
    """
    import torch
    from huggingface_hub import snapshot_download
    from safetensors.torch import load_file

    repository, revision = request["where"], request["asked"]["revision"]
    theirs, ours = (
        Path(snapshot_download(repository, revision=name, local_files_only=True))
        for name in (revision, "main")
    )
    converted: dict[str, str] = {}
    original: dict[str, str] = {}
    for part in _COMPONENTS:
        new, old = next((theirs / part).glob("*.safetensors")), next((ours / part).glob("*.bin"))
        converted |= tensor_digests(
            {f"{part}.{name}": tensor for name, tensor in load_file(new).items()}
        )
        original |= tensor_digests(
            {
                f"{part}.{name}": tensor
                for name, tensor in torch.load(old, weights_only=True).items()
            }
        )
    differing = sorted(
        name
        for name in converted.keys() | original.keys()
        if converted.get(name) != original.get(name)
    )
    return {"loaded": None, "compared": len(original), "differing": differing, "warnings": []}


@contextmanager
def _heard(phrases: list[str]) -> Iterator[None]:
    """Put what is warned of meanwhile into `said`, each thing once: by Python's warnings or a
    library's own log.
    """

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _note(phrases, record.getMessage())

    listener = Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught:
                if not issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning):
                    _note(phrases, str(warning.message))


def _note(phrases: list[str], text: str) -> None:
    line = first_lines(Warning(text))
    if line not in phrases:
        phrases.append(line)


if __name__ == "__main__":
    main()
