"""What to type for each loader that `weighbridge advise` measures: the call in torch or
safetensors, the argument of transformers and Diffusers, the flag of vLLM and SGLang.

This table is the only place that names them. A test asks the installed libraries whether each call
and argument exists. vLLM and SGLang are seldom installed beside the suite, so their lines name the
revision in which the flag was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Library(StrEnum):
    """A library that a person loads weights with."""

    TORCH = "torch"
    SAFETENSORS = "safetensors"
    TRANSFORMERS = "transformers"
    DIFFUSERS = "Diffusers"
    VLLM = "vLLM"
    SGLANG = "SGLang"


PLAIN = (Library.TORCH, Library.SAFETENSORS)
"""The libraries that give tensors and no model."""

NAMES = {
    "torch-load": "torch.load",
    "torch-load-legacy": "torch.load",
    "torch-load-mmap": "torch.load(mmap=True)",
    "safetensors-load-file": "safetensors load_file",
    "safetensors-pread": 'safetensors load_file(backend="pread")',
    "safetensors-prefetch-cache": "safetensors load_file with prefetching threads",
    "safetensors-load-bytes": "safetensors load of the whole file read first",
}
"""Each loader in words that a person knows."""


@dataclass(frozen=True)
class Line:
    """What brings a loader about in one library."""

    loader: str
    library: Library
    text: str
    """What to type; {file} and {folder} stand for the person's."""
    source: str
    """Where it was read: the installed call, or the revision of a file."""
    call: str | None = None
    """The callable that takes `arguments`, as module:name; None of a command line."""
    arguments: tuple[str, ...] = ()
    """The keyword arguments, or the flags, that the line names."""


_MODEL = "transformers:PreTrainedModel.from_pretrained"
_PIPELINE = "diffusers:DiffusionPipeline.from_pretrained"
_VLLM = "vLLM 030eb66, vllm/config/load.py"
_SGLANG = "SGLang 004813e, docs/advanced_features/server_arguments.md"


def _hugging_face(loader: str, library: Library, **arguments: bool) -> Line:
    """Return the line of a library whose models and pipelines are made by `from_pretrained`."""
    words = "".join(f", {name}={value}" for name, value in arguments.items())
    call = _MODEL if library is Library.TRANSFORMERS else _PIPELINE
    text = f"from_pretrained({{folder}}{words})"
    return Line(loader, library, text, f"the installed {library}", call, tuple(arguments))


def _torch(loader: str, text: str, *arguments: str) -> Line:
    return Line(loader, Library.TORCH, text, "the installed torch", "torch:load", arguments)


def _safetensors(loader: str, text: str, call: str, *arguments: str) -> Line:
    source = "the installed safetensors"
    return Line(loader, Library.SAFETENSORS, text, source, f"safetensors.torch:{call}", arguments)


def _flag(loader: str, library: Library, text: str) -> Line:
    source = _VLLM if library is Library.VLLM else _SGLANG
    return Line(loader, library, text, source, None, (text.split()[0],))


LINES = (
    _torch("torch-load", "torch.load({file}, weights_only=True)", "weights_only"),
    _hugging_face("torch-load", Library.DIFFUSERS, use_safetensors=False, disable_mmap=True),
    _flag("torch-load", Library.VLLM, "--load-format pt"),
    _flag("torch-load", Library.SGLANG, "--load-format pt"),
    _torch("torch-load-legacy", "torch.load({file}, weights_only=True)", "weights_only"),
    _hugging_face("torch-load-legacy", Library.TRANSFORMERS, use_safetensors=False),
    _hugging_face("torch-load-legacy", Library.DIFFUSERS, use_safetensors=False),
    _flag("torch-load-legacy", Library.VLLM, "--load-format pt"),
    _flag("torch-load-legacy", Library.SGLANG, "--load-format pt"),
    _torch(
        "torch-load-mmap",
        "torch.load({file}, weights_only=True, mmap=True)",
        "weights_only",
        "mmap",
    ),
    _hugging_face("torch-load-mmap", Library.TRANSFORMERS, use_safetensors=False),
    _hugging_face("torch-load-mmap", Library.DIFFUSERS, use_safetensors=False),
    _safetensors("safetensors-load-file", "safetensors.torch.load_file({file})", "load_file"),
    _hugging_face("safetensors-load-file", Library.TRANSFORMERS, use_safetensors=True),
    _hugging_face("safetensors-load-file", Library.DIFFUSERS, use_safetensors=True),
    _flag("safetensors-load-file", Library.VLLM, "--safetensors-load-strategy lazy"),
    _flag("safetensors-load-file", Library.SGLANG, "--load-format safetensors"),
    _safetensors(
        "safetensors-pread",
        'safetensors.torch.load_file({file}, backend="pread")',
        "load_file",
        "backend",
    ),
    _flag("safetensors-prefetch-cache", Library.VLLM, "--safetensors-load-strategy prefetch"),
    _flag("safetensors-prefetch-cache", Library.SGLANG, "--weight-loader-prefetch-checkpoints"),
    _safetensors(
        "safetensors-load-bytes",
        'safetensors.torch.load(open({file}, "rb").read())',
        "load",
    ),
    _hugging_face(
        "safetensors-load-bytes", Library.TRANSFORMERS, use_safetensors=True, disable_mmap=True
    ),
    _hugging_face(
        "safetensors-load-bytes", Library.DIFFUSERS, use_safetensors=True, disable_mmap=True
    ),
    _flag("safetensors-load-bytes", Library.VLLM, "--safetensors-load-strategy eager"),
    _flag("safetensors-load-bytes", Library.SGLANG, "--weight-loader-disable-mmap"),
)
"""Every line there is, by loader and library.

transformers 5 and Diffusers map a torch file whenever it is a zip archive, so that their plain
`use_safetensors=False` is `torch.load(mmap=True)`; of transformers there is no way to plain
`torch.load` of such a file.
"""


def line_for(library: Library, loaders: Sequence[str]) -> Line | None:
    """Return the line of a library for the first of `loaders` that it can do, None for none."""
    known = {line.loader: line for line in LINES if line.library is library}
    return next((known[loader] for loader in loaders if loader in known), None)
