"""Peers: what each library's loaders hold to beyond its content, what a missing one is told by, and
what each format can hold.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from harness.checkpoints.digest import tensor_digests
from harness.checkpoints.formats import Format
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.layouts import LAYOUTS, WARM_UP
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.errors import WeighbridgeError
from harness.loaders import (
    MODEL,
    SCANNER,
    Contract,
    all_formats,
    all_loaders,
    fast_safetensors,
    variables,
)
from harness.machine import page_cache, proof
from harness.machine.counters import counters
from tests.helpers import ALL_INSTALLED, ROOT, hear, installed, loader_of, present, python

pytestmark = pytest.mark.slow

Tensors = dict[str, torch.Tensor]

ARMS = {
    "fastsafetensors": ("safetensors", "fastsafetensors"),
    "fastsafetensors-buffered": ("safetensors", "fastsafetensors"),
    "fastsafetensors-gds": ("safetensors", "fastsafetensors"),
    "flashpack-mapped": ("flashpack", "flashpack"),
    "flashpack-read": ("flashpack", "flashpack"),
    "gguf-reader": ("gguf", "gguf"),
    "instanttensor": ("safetensors", "instanttensor"),
    "instanttensor-buffered": ("safetensors", "instanttensor"),
    "numpy-npy-mmap": ("npy", None),
    "numpy-npz": ("npz", None),
    "runai-model-streamer": ("safetensors", "runai"),
    "runai-model-streamer-buffered": ("safetensors", "runai"),
    "tensorizer": ("tensorizer", "tensorizer"),
    "torch-dcp": ("dcp", None),
    "torch-dcp-safetensors": ("dcp-safetensors", None),
}
"""Each peer's format and its extra."""
ON_THE_CPU = [
    name
    for name in ARMS
    if "cpu" in all_loaders()[name][1].devices and name != "fastsafetensors-gds"
]
BROUGHT = [
    name
    for name in all_formats()
    if name in {format_name for format_name, _ in ARMS.values()} - {"safetensors"}
]
"""Formats that a loader's module brings."""
LIBRARIES = {
    name: loader.requires[1] for name, (_, loader) in all_loaders().items() if loader.extra
}


def _form(name: str) -> Format:
    form = all_formats()[name]
    if absence := form.refusal("warm_up", (), False):
        pytest.skip(absence)
    return form


def _made(folder: Path, layout: Layout, format_name: str) -> Checkpoint:
    return Store(folder, formats=all_formats()).checkpoint(layout_source(layout, 0), [format_name])


def _load(loader: Contract, checkpoint: Checkpoint) -> Tensors:
    tensors: Tensors = loader.load(
        [str(file) for file in checkpoint.artifacts[loader.format].files], "cpu"
    )
    return tensors


def _content(layout: Layout) -> dict[str, str]:
    return tensor_digests(layout_source(layout, 0).make(0))


def _round_trip(form: Format, tensors: Tensors, folder: Path) -> Tensors:
    path = folder / form.file_names(1)[0]
    if form.folder:
        path.mkdir()
    form.write(tensors, path)
    return form.read(path)


# What is there


def test_every_library_is_there_with_its_format_and_its_extra() -> None:
    assert {name: (loader_of(name).format, loader_of(name).extra) for name in ARMS} == ARMS
    assert {name for name, (_, loader) in all_loaders().items() if loader.extra} <= set(ARMS)


def test_direct_io_has_no_warm_cells() -> None:
    cold = {name for name in ARMS if loader_of(name).cache_states == ("cold",)}
    assert cold == {
        "fastsafetensors",
        "fastsafetensors-gds",
        "instanttensor",
        "runai-model-streamer",
    }


@pytest.mark.parametrize("name", [name for name, (_, extra) in ARMS.items() if extra])
def test_an_absent_library_is_told_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = loader_of(name)
    for package in loader.requires[1:]:
        monkeypatch.setattr(
            "importlib.util.find_spec",
            lambda asked, hidden=package: None if asked == hidden else "there",
        )
        reason = f"{package} is not installed (the extra {loader.extra} has it)"
        assert loader.absence() == reason
        form = all_formats()[loader.format]
        assert form.refusal("warm_up", {"float32"}, False) == (
            reason if package in form.requires else None
        )
        monkeypatch.undo()


def test_a_missing_library_skips_its_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("tests.helpers.PINNED_FOR", (sys.platform, platform.machine()))
    monkeypatch.delenv(ALL_INSTALLED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        present("tensorizer")
    with pytest.raises(pytest.skip.Exception, match="no_such_library"):
        installed("no_such_library")
    monkeypatch.setenv(ALL_INSTALLED, "1")
    with pytest.raises(pytest.fail.Exception, match="is not installed"):
        present("tensorizer")
    with pytest.raises(pytest.fail.Exception, match="no_such_library"):
        installed("no_such_library")


def test_every_extra_is_declared_and_pinned() -> None:
    """A figure in a report is of a pinned release, which has to be one that the extra would
    take.
    """

    extras: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    models = {
        loader.extra
        for kind in (MODEL, SCANNER)
        for _, loader in all_loaders(kind).values()
        if loader.extra
    }
    assert models | {extra for _, extra in ARMS.values() if extra} == set(extras) - {
        "peers",
        "gpu",
        "storage",
    }
    lines = [
        line
        for line in (ROOT / "requirements/loaders.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = {pinned.name: pinned for pinned in map(Requirement, lines)}
    for asked in (Requirement(line) for extra in set(extras) - {"peers"} for line in extras[extra]):
        (pin,) = pins[asked.name].specifier
        assert pin.operator == "=="
        assert pin.version in asked.specifier
    (everything,) = map(Requirement, extras["peers"])
    assert everything.extras == {
        extra for name, (_, extra) in ARMS.items() if extra and "cpu" in loader_of(name).devices
    } | models | {"storage"}


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="this system does not list a process's threads"
)
@pytest.mark.parametrize("library", sorted(set(LIBRARIES.values())))
def test_importing_a_library_starts_no_thread(library: str) -> None:
    """A server imports it and then forks, and a thread does not survive that."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    script = (
        "import os, torch; before = len(os.listdir('/proc/self/task'))\nimport"
        f" {library}\nprint(len(os.listdir('/proc/self/task')) - before)"
    )
    with python(script) as asked:
        assert hear(asked) == "0"


# What is loaded


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_a_library_loads_the_tiny_checkpoint_of_a_warm_up(name: str, tmp_path: Path) -> None:
    loader = present(name)
    assert tensor_digests(_load(loader, _made(tmp_path, WARM_UP, loader.format))) == _content(
        WARM_UP
    )


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_what_a_library_loaded_stays_when_it_loads_again(name: str, tmp_path: Path) -> None:
    """Some keep their tensors in buffers: none may be freed or used again while a tensor lies in
    it.
    """

    loader, layouts = (
        present(name),
        [Layout(f"many-{dtype}", _many(dtype)) for dtype in ("float32", "float16")],
    )
    checkpoints = [_made(tmp_path, layout, loader.format) for layout in layouts]
    loaded = [_load(loader, checkpoint) for checkpoint in checkpoints]
    gc.collect()
    assert [tensor_digests(tensors) for tensors in loaded] == [
        _content(layout) for layout in layouts
    ]


def _many(dtype: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"layer.{number}", dtype, (257, 129)) for number in range(40))


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_a_library_with_warm_cells_reads_the_page_cache(name: str, tmp_path: Path) -> None:
    loader = present(name)
    checkpoint = _made(tmp_path, LAYOUTS["lora-1000"](), loader.format)
    files = checkpoint.artifacts[loader.format].files
    if not proof.capability(tmp_path).cold:
        pytest.skip("nothing can be made cold here")
    _load(loader, _made(tmp_path, WARM_UP, loader.format))
    page_cache.evict(files)
    page_cache.warm(files)
    before = counters().storage_read_bytes
    tensors = _load(loader, checkpoint)
    after = counters().storage_read_bytes
    assert tensors
    if before is None or after is None:
        pytest.skip("this system does not say what was read from storage")
    assert (after - before < checkpoint.bytes / 10) == ("warm" in loader.cache_states)


# What a format holds


@pytest.mark.parametrize("format_name", BROUGHT)
def test_a_brought_format_holds_names_and_shapes_of_every_kind(
    format_name: str, tmp_path: Path
) -> None:
    tensors = {
        "file": torch.arange(3, dtype=torch.int64),
        "a" * 63: torch.ones(1),
        "a" * 64: torch.full((2,), 2.0),
        f"{'é' * 40}/x.npy": torch.full((3, 1), 3.0, dtype=torch.bfloat16),
        "deep": torch.arange(48, dtype=torch.float16).reshape(1, 2, 2, 2, 3, 2),
        "scale": torch.tensor(1.5, dtype=torch.bfloat16),
        "none": torch.empty((0, 3), dtype=torch.bfloat16),
        "nan": torch.tensor([0x7FC1, 0x7F80, 0x8000], dtype=torch.uint16).view(torch.bfloat16),
    }
    if format_name in ("tensorizer", "flashpack"):
        del tensors["none"]
    if format_name == "flashpack":
        del tensors["scale"]
    held = _round_trip(_form(format_name), tensors, tmp_path)
    if format_name not in ("flashpack", "dcp-safetensors"):  # those put them in an order of theirs
        assert list(held) == list(tensors)
    assert tensor_digests(held) == tensor_digests(tensors)


@pytest.mark.parametrize("format_name", BROUGHT)
def test_what_a_brought_format_cannot_hold_is_said_in_words(format_name: str) -> None:
    form = _form(format_name)
    assert form.refusal("warm_up", {"uint8", "bool", "float32"}, False) == (
        "gguf holds no bool, uint8" if format_name == "gguf" else None
    )
    assert form.refusal("warm_up", {"float32"}, True) == f"{format_name} has no sharded form"


def test_tensorizer_refuses_what_it_could_not_read_back(tmp_path: Path) -> None:
    with pytest.raises(
        WeighbridgeError, match="cannot read back empty, a bfloat16 tensor without elements"
    ):
        _round_trip(
            _form("tensorizer"), {"empty": torch.empty((0, 3), dtype=torch.bfloat16)}, tmp_path
        )


def test_flashpack_refuses_what_it_gives_back_changed(tmp_path: Path) -> None:
    for tensor in (torch.tensor(1.0), torch.empty((0, 3))):
        with pytest.raises(WeighbridgeError, match="does not give back x as it was"):
            _round_trip(_form("flashpack"), {"x": tensor}, tmp_path)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("flashpack-mapped", True),
        ("flashpack-read", False),
        ("gguf-reader", True),
        ("numpy-npy-mmap", True),
        ("numpy-npz", False),
        ("tensorizer", False),
    ],
)
@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="this system does not list a process's mappings"
)
def test_a_library_maps_the_file_only_where_that_is_its_way(
    name: str, maps: bool, tmp_path: Path
) -> None:
    loader = present(name)
    checkpoint = _made(tmp_path, WARM_UP, loader.format)
    tensors = _load(loader, checkpoint)
    mapped = Path("/proc/self/maps").read_text()
    assert any(str(file) in mapped for file in checkpoint.artifacts[loader.format].files) == maps
    if name == "flashpack-mapped":
        return  # what writes to its tensors is killed, as the next test shows
    tensors["a"].zero_()
    assert tensor_digests(_load(loader, checkpoint)) == _content(WARM_UP), (
        "what is written to a tensor stays out of its file"
    )


def test_writing_to_a_tensor_flashpack_mapped_kills(tmp_path: Path) -> None:
    loader = present("flashpack-mapped")
    (file,) = _made(tmp_path, WARM_UP, loader.format).artifacts[loader.format].files
    script = f"""
from harness.loaders import all_loaders
all_loaders()["flashpack-mapped"][1].load([{str(file)!r}], "cpu")["a"].zero_()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert ended.returncode == -signal.SIGSEGV


# What cannot be had


def test_gpudirect_storage_is_told_absent_by_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loader = loader_of("fastsafetensors-gds")
    assert loader.devices == ("cuda",)
    monkeypatch.setattr(fast_safetensors, "_GDS_NODE", tmp_path / "nvidia-fs0")
    assert (
        loader.supported()
        == "GPUDirect Storage cannot be had: there is no nvidia-fs0, which the kernel module"
        " nvidia-fs makes"
    )


@pytest.mark.skipif(Path("/dev/nvidia-fs0").exists(), reason="GPUDirect Storage may be had here")
def test_gpudirect_storage_that_was_quietly_done(tmp_path: Path) -> None:
    """On the CPU the library falls back where the device node is missing, as it does on a GPU."""
    present("fastsafetensors")
    checkpoint = _made(tmp_path, WARM_UP, "safetensors")
    with (
        pytest.warns(UserWarning, match="nvidia-fs0 not found"),
        pytest.raises(RuntimeError, match="did without"),
    ):
        _load(loader_of("fastsafetensors-gds"), checkpoint)


def test_tensors_that_do_not_outlive_their_buffer_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_the_option(self: Any) -> None: ...

    fast, streamer = present("fastsafetensors"), present("runai-model-streamer")
    monkeypatch.setattr(
        "fastsafetensors.SafeTensorsFileLoader.copy_files_to_device", without_the_option
    )
    monkeypatch.setattr("runai_model_streamer.SafetensorsStreamer.stream_files", without_the_option)
    assert (
        fast.absence()
        == "this release of fastsafetensors frees tensors with their buffer (0.5 and later do not)"
    )
    assert (
        streamer.absence()
        == "this release of runai-model-streamer uses a tensor's memory again (0.17 and later do"
        " not)"
    )


@pytest.mark.parametrize(
    ("name", "backend"),
    [("instanttensor", None), ("instanttensor-buffered", "through the page cache")],
)
def test_instanttensor_is_asked_for_everything_on_a_numbered_gpu(
    name: str, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    @contextmanager
    def safe_open(files: list[str], **options: Any) -> Iterator[SimpleNamespace]:
        asked.append((list(files), options))
        files.sort()
        yield SimpleNamespace(tensors=lambda: iter([("a", "tensor")]))

    library = SimpleNamespace(
        safe_open=safe_open, BackendPolicy={"BUFFERED": "through the page cache"}
    )
    monkeypatch.setitem(sys.modules, "instanttensor", library)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    files = ["2", "1"]
    assert loader_of(name).load(files, "cuda") == {"a": "tensor"}
    assert asked == [
        (["2", "1"], {"framework": "pt", "device": torch.device("cuda:3"), "backend": backend})
    ]
    assert files == ["2", "1"], "it sorts the list it is given"


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_A", "before")
    monkeypatch.delenv("WEIGHBRIDGE_B", raising=False)
    with variables({"WEIGHBRIDGE_A": "1", "WEIGHBRIDGE_B": "2"}):
        assert (os.environ["WEIGHBRIDGE_A"], os.environ["WEIGHBRIDGE_B"]) == ("1", "2")
    assert os.environ["WEIGHBRIDGE_A"] == "before"
    assert "WEIGHBRIDGE_B" not in os.environ
