"""What a reader calls a loader, and what to type to use it."""

from __future__ import annotations

from enum import StrEnum

from harness.analysis.ceilings import is_ceiling, resource_of


class Family(StrEnum):
    """What a loader's file is, by which its bars are coloured."""

    SAFETENSORS = "s"
    PICKLE = "p"
    CEILING = "c"
    OTHER = "o"


PLAIN = {
    "safetensors-load-file": "safetensors (mapped)",
    "safetensors-pread": "safetensors (read)",
    "safetensors-load-bytes": "safetensors (whole file first)",
    "safetensors-prefetch-cache": "safetensors (prefetched)",
    "safetensors-get-slice": "safetensors (sliced)",
    "safetensors-scatter": "safetensors (scattered)",
    "torch-load": "torch.load",
    "torch-load-mmap": "torch.load (mapped)",
    "diffusers-safetensors": "Diffusers (safetensors)",
    "diffusers-bin": "Diffusers (.bin)",
    "transformers-safetensors": "transformers (safetensors)",
    "transformers-bin": "transformers (.bin)",
}
"""Plain words for the loaders that sentences speak of; another goes by its own name."""

CALLS = {
    "safetensors-load-file": 'safetensors.torch.load_file("model.safetensors")',
    "safetensors-pread": 'safetensors.torch.load_file("model.safetensors", backend="pread")',
    "safetensors-load-bytes": 'safetensors.torch.load(open("model.safetensors", "rb").read())',
    "safetensors-safe-open": 'safetensors.safe_open("model.safetensors", framework="pt")',
    "torch-load": 'torch.load("model.pt", weights_only=True)',
    "torch-load-mmap": 'torch.load("model.pt", weights_only=True, mmap=True)',
    "diffusers-safetensors": "DiffusionPipeline.from_pretrained(path, use_safetensors=True)",
    "diffusers-bin": "DiffusionPipeline.from_pretrained(path, use_safetensors=False)",
    "transformers-safetensors": "AutoModel.from_pretrained(path, use_safetensors=True)",
    "transformers-bin": "AutoModel.from_pretrained(path, use_safetensors=False)",
}
"""What to type, for the loaders that are one call."""

_PICKLES = ("torch-", "pickle-", "assign-torch", "copy-torch")


def plain(loader: str, cache_state: str = "cold") -> str:
    """Return what a sentence calls a loader or a ceiling."""
    if is_ceiling(loader):
        return f"ceiling: {resource_of(loader, cache_state)}"
    return PLAIN.get(loader, loader)


def family(loader: str) -> Family:
    """Return what a loader's file is."""
    if is_ceiling(loader):
        return Family.CEILING
    if "safetensors" in loader:
        return Family.SAFETENSORS
    if loader.startswith(_PICKLES) or loader.endswith(("-bin", "-ckpt")):
        return Family.PICKLE
    return Family.OTHER
