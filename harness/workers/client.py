"""The orchestrator's end of a server: starts it, asks it, and starts it again when it died."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.errors import WeighbridgeError
from harness.workers.cache_state import residency, set_cache_state
from harness.workers.code_digest import code_digest
from harness.workers.outcome import Answer

ROOT = Path(__file__).parents[2]
GRACE_S = 30.0
PREPARE_TIMEOUT_S = 300.0

LOCAL_ONLY = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""What libraries that know a hub are told in an environment under test: to ask nobody, and to draw and say nothing meanwhile."""

CLEAN_FORK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes `torch.cuda.is_available()` ask the driver's NVML: asking the CUDA runtime would leave no forked child able to use the GPU.

Source: torch.cuda.is_available, torch 2.0 and later. Importing diffusers calls it.
"""


def under_test() -> dict[str, str]:
    """Return the environment variables of a process under test: the person's, what keeps libraries local, and where the harness is."""
    return (
        os.environ | LOCAL_ONLY | CLEAN_FORK | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    )


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

    def as_request(self) -> Answer:
        """Return the load as a server is asked for it."""
        request = {name: [str(file) for file in getattr(self, name)] for name in ("files", "warm_up", "expected")}
        return request | {"loader": self.loader, "device": self.device, "touch_bytes": self.touch_bytes}


class Server:
    """The server process of one environment under test, `python` being its interpreter."""

    def __init__(
        self,
        loaders: Mapping[str, list[str]],
        packages: Iterable[str],
        python: str = sys.executable,
        *,
        gpu: bool = False,
        timeout_s: float = PREPARE_TIMEOUT_S,
    ) -> None:
        """`loaders` maps each loader's key `module:name` to the files of its warm-up load; `packages` are those whose versions are asked for.

        `gpu` says whether samples will be taken on a GPU: whether a forked child can use it is then tried once. A loader's warm-up load
        may take `timeout_s` seconds.
        """
        self._python = python
        self._prepare = {"do": "prepare", "loaders": dict(loaders), "packages": list(packages), "timeout_s": timeout_s, "gpu": gpu}
        self._start_timeout_s = PREPARE_TIMEOUT_S + timeout_s * max(1, len(loaders))
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: Answer = {}

    def __enter__(self) -> Server:
        self.environment = self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when none is running."""
        return self._process.pid if self._process else None

    def set_cache_state(self, cache_state: str, files: Sequence[Path]) -> tuple[float | None, str | None]:
        """Set the cache state of files and return (resident fraction then, None), or (None, why it could not be set or read)."""
        return set_cache_state(cache_state, files)

    def residency(self, files: Sequence[Path]) -> float | None:
        """Return the resident fraction of files, None where it cannot be read."""
        return residency(files)

    def sample(self, load: Load, timeout_s: float) -> Answer:
        """Return what the child measured, or {"failure": …, "detail": …}; never raises for anything the load does."""
        request = {"do": "sample", "timeout_s": timeout_s}
        return self._ask(request | load.as_request(), timeout_s + GRACE_S)

    def _ask(self, request: Answer, timeout_s: float) -> Answer:
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer = self._exchange(request, timeout_s)
        if answer is None:
            self._stop()
            return {"failure": "server-died", "detail": "it is started again for the next sample"}
        return answer

    def _start(self) -> Answer:
        self._process = subprocess.Popen(
            [self._python, "-m", "harness.workers.load_worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=under_test(),
            start_new_session=True,  # Ctrl-C is for the orchestrator, which then ends the server in order
        )
        answer = self._exchange(self._prepare, self._start_timeout_s)
        if answer is None:
            raise WeighbridgeError(
                f"{self._python} could not start the measuring server; its own message stands above. It needs torch: {self._python} -m pip install torch"
            )
        if answer.get("code") != code_digest():
            self._stop()
            raise WeighbridgeError(
                f"{self._python} answered as a worker of another version: its measuring code is {answer.get('code')}, here it is {code_digest()}; take its own copy of the harness out of that environment, or start again if this code was edited"
            )
        return answer

    def _exchange(self, request: Answer, timeout_s: float) -> Answer | None:
        """Send one line and return the answer, None when the server is gone or silent for too long."""
        process = self._process
        assert process and process.stdin and process.stdout
        deadline = time.monotonic() + timeout_s
        output = b""
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while not output.endswith(b"\n"):
                readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                piece = os.read(process.stdout.fileno(), 1 << 16) if readable else b""
                if not piece:
                    return None
                output += piece
        except BrokenPipeError:
            return None
        answer: Answer = json.loads(output)
        return answer

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None
