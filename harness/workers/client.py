"""The orchestrator's end of the load worker: what it is started with, and what it is asked to
load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.workers.cache_state import residency, set_cache_state
from harness.workers.protocol import PREPARE_TIMEOUT_S, ROOT, Answer, Worker, WorkerClient

LOCAL_ONLY = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""What libraries that know a hub are told in an environment under test: to ask nobody, and to draw
and say nothing meanwhile.
"""


CLEAN_FORK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes `torch.cuda.is_available()` ask the driver's NVML: asking the CUDA runtime would leave no
forked child able to use the GPU.

Source: torch.cuda.is_available, torch 2.0 and later. Importing diffusers calls it.
"""


def under_test() -> dict[str, str]:
    """Return the environment variables of a process under test: the person's, what keeps libraries
    local, and where the harness is.
    """
    return (
        os.environ
        | LOCAL_ONLY
        | CLEAN_FORK
        | {
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
        }
    )


@dataclass(frozen=True)
class InGroup:
    """Asks for a load in a control group of its own that counts its memory."""

    limit_bytes: int | None = None
    """The most that may be charged to the group; None for no limit."""
    stays: bool = False
    """Whether to tell what the load leaves in memory, stage by stage."""


@dataclass(frozen=True)
class Load:
    """What a child is asked to load, and what it is held to."""

    loader: str
    """The loader's key, `module:name`."""
    files: tuple[Path, ...]
    warm_up: tuple[Path, ...]
    expected: tuple[Path, ...]
    """The checksums of everything, or a selection for each rank."""
    device: str
    touch_bytes: int
    """How much memory to touch and give back before the load."""
    in_group: InGroup | None = None

    def as_request(self) -> Answer:
        """Return the load as a server is asked for it."""
        request = {
            name: [str(file) for file in getattr(self, name)]
            for name in ("files", "warm_up", "expected")
        }
        return request | {
            "loader": self.loader,
            "device": self.device,
            "touch_bytes": self.touch_bytes,
            "in_group": asdict(self.in_group) if self.in_group else None,
        }


class Server(WorkerClient):
    """The load worker of one environment under test, `python` being its interpreter."""

    def __init__(
        self,
        loaders: Mapping[str, list[str]],
        packages: Iterable[str],
        python: str = sys.executable,
        *,
        gpu: bool = False,
        timeout_s: float = PREPARE_TIMEOUT_S,
    ) -> None:
        """`loaders` maps each loader's key `module:name` to the files of its warm-up load.

        `packages` are those whose versions are asked for.

        `gpu` says whether samples will be taken on a GPU: whether a forked child can use it is then
        tried once. A loader's warm-up load may take `timeout_s` seconds.
        """
        self._worker = Worker(
            "load_worker",
            {
                "loaders": dict(loaders),
                "packages": list(packages),
                "timeout_s": timeout_s,
                "gpu": gpu,
            },
            PREPARE_TIMEOUT_S + timeout_s * max(1, len(loaders)),
            python=python,
            env=under_test(),
            failure=(
                f"{python} could not start the load worker; its own message stands above. It needs"
                f" torch: {python} -m pip install torch"
            ),
        )
        self.environment: Answer = {}

    def __enter__(self) -> Server:
        self.environment = self._worker.start()
        return self

    def set_cache_state(
        self, cache_state: str, files: Sequence[Path]
    ) -> tuple[float | None, str | None]:
        """Set the cache state of files and return (resident fraction then, None), or (None, why it
        could not be set or read).
        """
        return set_cache_state(cache_state, files)

    def residency(self, files: Sequence[Path]) -> float | None:
        """Return the resident fraction of files, None where it cannot be read."""
        return residency(files)

    def sample(self, load: Load, timeout_s: float) -> Answer:
        """Return what the child measured, or {"failure": …, "detail": …}.

        Never raises for anything the load does.
        """
        return self._worker.ask(
            {"do": "sample", "timeout_s": timeout_s} | load.as_request(), timeout_s
        )
