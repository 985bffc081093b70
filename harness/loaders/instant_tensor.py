"""InstantTensor: a safetensors file read into a ring on the GPU, many pieces at once, and each
tensor copied out of it.

It reads past the page cache (`O_DIRECT`), whatever is cached: so as it comes it has no warm cells,
and `instanttensor-buffered` is the same with the library's own policy for reading through the page
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.loaders import Loader

if TYPE_CHECKING:
    from harness.loaders import Tensors


def _loading(policy: str | None) -> Callable[[Sequence[str], str], Tensors]:
    """Return what loads with the backend a policy stands for, or with the library's choice."""

    def load(files: Sequence[str], device: str) -> Tensors:
        import torch
        from instanttensor import BackendPolicy, safe_open

        place = torch.device(device)
        numbered = (
            place
            if place.index is not None
            else torch.device(place.type, torch.cuda.current_device())
        )  # it wants a number
        backend = None if policy is None else BackendPolicy[policy]
        with safe_open(list(files), framework="pt", device=numbered, backend=backend) as opened:
            return dict(opened.tensors())

    return load


def _has_policies() -> str | None:
    import instanttensor

    return (
        None
        if hasattr(instanttensor, "BackendPolicy")
        else "this release of instanttensor has no BackendPolicy (0.2.2 has)"
    )


_AS_IT_COMES = Loader(
    "instanttensor",
    "safetensors",
    _loading(None),
    ("torch", "instanttensor"),
    extra="instanttensor",
    own_device_memory=True,
    devices=("cuda",),
    cache_states=("cold",),
)
LOADERS = (
    _AS_IT_COMES,
    replace(
        _AS_IT_COMES,
        name="instanttensor-buffered",
        load=_loading("BUFFERED"),
        supported=_has_policies,
        cache_states=("cold", "warm"),
    ),
)
