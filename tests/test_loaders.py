"""Loaders: each brings up the checkpoint's exact content, and a new one joins by lying in the
folder.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch

import harness.loaders
from harness.checkpoints.content import _MASKS
from harness.checkpoints.digest import tensor_digests
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.loaders import Ceiling, Contract, Loader, all_formats, all_loaders, merged
from harness.loaders.threads import COUNTS
from harness.machine import page_cache, proof
from tests.helpers import ceiling_of, hear, loader_of, present, python

Tensors = dict[str, torch.Tensor]

DOCUMENTED = (
    "ceiling-read",
    "ceiling-direct",
    "ceiling-copy",
    "ceiling-to-device",
    "ceiling-to-device-pageable",
    "torch-load-then-to",
    "safetensors-load-file-then-to",
    "safetensors-staged",
    "pickle-load",
    "safetensors-load-file",
    "safetensors-pread",
    "safetensors-safe-open",
    "safetensors-load-bytes",
    "torch-load",
    "torch-load-unsafe",
    "torch-load-mmap",
    "torch-load-legacy",
    "torch-load-safetensors",
    "torch-dcp-safetensors",
    "safetensors-get-tensors",
    "safetensors-prefetch-cache",
    "safetensors-populate",
    "safetensors-willneed",
    *(f"safetensors-threads-{threads}" for threads in COUNTS),
    *(f"safetensors-pread-threads-{threads}" for threads in COUNTS),
)

SPECS = (
    *(TensorSpec(f"layer.{dtype}", dtype, (3, 5)) for dtype in _MASKS),
    TensorSpec("large", "bfloat16", (1 << 20, 3)),  # blocks enough for every thread of the ceiling
    TensorSpec("scalar", "float32", ()),
    TensorSpec("empty", "int64", (0, 3)),
)
WHOLE = Layout("whole", SPECS)
NARROWED = Layout("narrowed", tuple(spec for spec in SPECS if spec.dtype not in {"uint8", "bool"}))
"""What GGUF can hold: it has no type for the others."""
FILLED = Layout("filled", SPECS[:-2])
"""What FlashPack gives back as it was: not what has no dimensions or no elements."""
HELD = {"gguf": NARROWED, "flashpack": FILLED}
"""What a format can hold, where that is not everything."""
TWO_SHARDS = Layout("two-shards", SPECS, shard_bytes=(6 << 20) + 100)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """The same tensors whole and in two shards, in every format that can hold them."""
    store = Store(tmp_path_factory.mktemp("store"), formats=all_formats())
    return {
        layout.name: store.checkpoint(layout_source(layout, 0), all_formats())
        for layout in (WHOLE, NARROWED, FILLED, TWO_SHARDS)
    }


def _content(layout: Layout) -> dict[str, str]:
    source = layout_source(layout, 0)
    return tensor_digests(
        {
            name: tensor
            for shard in range(len(source.shard_bytes))
            for name, tensor in source.make(shard).items()
        }
    )


def _load(loader: Contract, checkpoint: Checkpoint) -> Tensors:
    files = [str(file) for file in checkpoint.artifacts[loader.format].files]
    return loader.content(loader.ready_to_load(files, "cpu")(), files)


ON_A_GPU_ALONE = {
    "fastsafetensors-gds",
    "instanttensor",
    "instanttensor-buffered",
    "safetensors-prefetch",
}
"""Loaders that cannot so much as try without one; other ways to a GPU are tested as ways to the
processor's memory.
"""

ON_THE_CPU = [name for name in all_loaders() if name not in ON_A_GPU_ALONE]


def test_every_documented_loader_is_there_and_runs_here() -> None:
    """Others may join; none of these may leave or be renamed, since runs are compared by these
    names.
    """

    assert set(DOCUMENTED) <= set(all_loaders())
    assert {name: loader_of(name).absence() for name in DOCUMENTED} == dict.fromkeys(DOCUMENTED)


def test_loaders_are_listed_under_their_own_names() -> None:
    for name, (module, loader) in all_loaders().items():
        assert loader.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert harness.loaders.loaders(module)[name] == loader
        assert loader.format in all_formats()


CEILINGS = {
    "ceiling-read",
    "ceiling-read-4m",
    "ceiling-direct",
    "ceiling-copy",
    "ceiling-to-device",
    "ceiling-to-device-pageable",
}


def test_ceilings_alone_are_let_prepare_and_are_called_so() -> None:
    assert {name for name, (_, loader) in all_loaders().items() if loader.ceiling} == CEILINGS
    assert {
        name for name, (_, loader) in all_loaders().items() if isinstance(loader, Ceiling)
    } == CEILINGS
    assert {name for name, (_, loader) in all_loaders().items() if not loader.reads} < CEILINGS


def test_no_loader_passes_for_a_ceiling() -> None:
    with pytest.raises(ValueError, match="a ceiling, and nothing else, is called ceiling-"):
        Loader("ceiling-of-mine", "safetensors", lambda *_: {})
    with pytest.raises(ValueError, match="a ceiling, and nothing else, is called ceiling-"):
        Ceiling("mine", "safetensors", lambda *_: {}, as_tensors=lambda tensors, _: tensors)


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_a_loader_brings_up_the_checkpoint_s_exact_content(
    name: str, checkpoints: dict[str, Checkpoint]
) -> None:
    loader = present(name)
    layout = HELD.get(loader.format, WHOLE)
    assert tensor_digests(_load(loader, checkpoints[layout.name])) == _content(layout)


@pytest.mark.parametrize(
    "name", [name for name in ON_THE_CPU if all_formats()[loader_of(name).format].index]
)
def test_a_loader_brings_up_both_shards(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, loader = checkpoints["two-shards"], present(name)
    assert len(checkpoint.artifacts[loader.format].files) == 2
    assert tensor_digests(_load(loader, checkpoint)) == _content(TWO_SHARDS)


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="this system does not list a process's mappings"
)
@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("torch-load-mmap", True),
        ("torch-load", False),
        ("safetensors-pread", False),
        ("torch-load-safetensors", True),
        ("safetensors-threads-4", True),
        ("safetensors-pread-threads-4", False),
    ],
)
def test_a_loader_maps_the_file_only_where_its_name_says_so(
    name: str, maps: bool, checkpoints: dict[str, Checkpoint]
) -> None:
    checkpoint = checkpoints["whole"]
    (file,) = checkpoint.artifacts[loader_of(name).format].files
    tensors = _load(loader_of(name), checkpoint)
    assert (str(file) in Path("/proc/self/maps").read_text()) == maps
    assert tensors


def test_the_ceiling_says_so_when_the_file_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(5 << 20))
    ceiling = ceiling_of("ceiling-read")
    prepared = ceiling.setup([str(path)], "cpu")
    os.truncate(path, 3 << 20)
    with pytest.raises(EOFError, match="the file ends at byte"):
        ceiling.load([str(path)], "cpu", prepared)


def test_the_ceiling_names_tensors_that_begin_anywhere(tmp_path: Path) -> None:
    """The library aligns what it writes, the format does not ask for it."""
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + struct.pack("<Bff", 7, 1.5, -2.0))
    ceiling = ceiling_of("ceiling-read")
    found = ceiling.content(
        ceiling.load([str(path)], "cpu", ceiling.setup([str(path)], "cpu")), [str(path)]
    )
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [7], "b": [1.5, -2.0]}


def test_the_ceiling_s_memory_is_there_before_it_is_timed(tmp_path: Path) -> None:
    """What it reads goes into the memory that was prepared, none of it made during the read."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(os.urandom(3 << 20))
    ceiling = ceiling_of("ceiling-read")
    prepared = ceiling.setup([str(path)], "cpu")
    address = prepared[0][str(path)].data_ptr()
    (read,) = ceiling.load([str(path)], "cpu", prepared).values()
    assert read.data_ptr() == address
    assert bytes(read.numpy()) == path.read_bytes()


def test_a_module_laid_into_the_folder_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "joined_in_a_test.py").write_text(
        "from harness.loaders import Loader\nLOADERS = (Loader('joined', 'safetensors', lambda"
        " files, device: {}), Loader('joined-too', 'pickle', lambda *_: {}))\n"
    )
    before = list(all_loaders())
    monkeypatch.setattr(harness.loaders, "__path__", [*harness.loaders.__path__, str(tmp_path)])
    try:
        found = all_loaders()
        assert sorted(found) == sorted([*before, "joined", "joined-too"])
        assert found["joined"][0] == "harness.loaders.joined_in_a_test"
        assert found["joined"][1].load([], "cpu") == {}
    finally:
        sys.modules.pop("harness.loaders.joined_in_a_test", None)


def test_each_gpu_arm_that_was_asked_for_takes_part_there() -> None:
    there = {name for name, (_, loader) in all_loaders().items() if "cuda" in loader.devices}
    assert there >= {
        "torch-load",
        "torch-load-mmap",
        "torch-load-then-to",
        "safetensors-load-file",
        "safetensors-load-file-then-to",
        "safetensors-pread",
        "safetensors-staged",
        "safetensors-pinned",
        "safetensors-eager-then-to",
        "safetensors-prefetch",
        "ceiling-to-device",
    }


def test_a_staged_copy_takes_more_pieces_than_it_has_buffers(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.loaders.to_device._PIECE", (1 << 20) + 3)
    assert tensor_digests(_load(loader_of("safetensors-staged"), checkpoints["whole"])) == _content(
        WHOLE
    )


def test_past_the_page_cache_nothing_becomes_resident(checkpoints: dict[str, Checkpoint]) -> None:
    (file,) = checkpoints["whole"].artifacts["safetensors"].files
    if not proof.capability(file.parent).cold:
        pytest.skip("nothing can be made cold here")
    page_cache.evict([file])
    assert tensor_digests(_load(loader_of("ceiling-direct"), checkpoints["whole"])) == _content(
        WHOLE
    )
    page_cache.evict([file])
    direct = ceiling_of("ceiling-direct")
    direct.load([str(file)], "cpu", direct.setup([str(file)], "cpu"))
    assert page_cache.residency([file]).fraction == 0.0


def test_the_ceiling_of_copying_copies_while_its_clock_runs(
    checkpoints: dict[str, Checkpoint],
) -> None:
    """What is read beforehand lies elsewhere: before the call there is nothing of the file where
    its tensors will be.
    """

    copy = ceiling_of("ceiling-copy")
    (file,) = checkpoints["whole"].artifacts["safetensors"].files
    sources, targets, pool = copy.setup([str(file)], "cpu")
    assert bytes(sources[str(file)].numpy()) == file.read_bytes()
    assert bytes(targets[str(file)].numpy()) != file.read_bytes()
    assert copy.load([str(file)], "cpu", (sources, targets, pool)) is targets
    assert bytes(targets[str(file)].numpy()) == file.read_bytes()


def _nothing(*_: object) -> Tensors:
    return {}


def test_an_absent_library_is_named() -> None:
    loader = Loader(
        "x",
        "safetensors",
        _nothing,
        requires=("torch", "no_such_library"),
        supported=lambda: pytest.fail("asked without it"),
    )
    assert loader.absence() == "no_such_library is not installed"


def test_a_release_that_cannot_is_told_with_its_reason() -> None:
    assert Loader("x", "safetensors", _nothing, supported=lambda: "too old").absence() == "too old"
    assert Loader("x", "safetensors", _nothing).absence() is None


def test_a_release_without_pread_is_told_by_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_file(filename: str, device: str = "cpu") -> Tensors:
        return {}

    monkeypatch.setattr("safetensors.torch.load_file", load_file)
    monkeypatch.setattr(safetensors, "__version__", "0.7.0")
    assert (
        loader_of("safetensors-pread").absence()
        == "safetensors 0.7.0 has no backend='pread' (0.8 and later have)"
    )
    assert loader_of("safetensors-load-file").absence() is None


def test_naming_every_loader_imports_no_library() -> None:
    """So each can be named, and its absence explained, where its library is missing."""
    script = """
import sys
from harness.loaders import all_loaders
print(len(all_loaders()), sorted({"torch", "safetensors", "numpy"} & set(sys.modules)))
"""
    with python(script) as asked:
        assert hear(asked) == f"{len(all_loaders())} []"


def test_shards_are_merged_in_their_order() -> None:
    shards: dict[str, Tensors] = {
        "1": {"a": torch.zeros(1), "b": torch.ones(1)},
        "2": {"c": torch.ones(1)},
    }
    assert merged(shards.__getitem__, ["1"]) is shards["1"], (
        "one file needs no copy of the dictionary"
    )
    assert list(merged(shards.__getitem__, ["2", "1"])) == ["c", "a", "b"]


class Hostile:
    """Makes a folder when it is unpickled by a reader that runs what it finds."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["torch-load", "torch-load-mmap", "torch-load-legacy"])
def test_torch_load_refuses_what_runs_when_unpickled(name: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "hostile.bin", tmp_path / "canary"
    torch.save(
        {"w": torch.ones(2), "evil": Hostile(canary)},
        path,
        _use_new_zipfile_serialization=name != "torch-load-legacy",
    )
    with pytest.raises(Exception, match=r"[Ww]eights.?only"):
        loader_of(name).load([str(path)], "cpu")
    assert not canary.exists()


def test_torch_load_unsafe_is_what_its_name_says(tmp_path: Path) -> None:
    path, canary = tmp_path / "hostile.bin", tmp_path / "canary"
    torch.save({"w": torch.ones(2), "evil": Hostile(canary)}, path)
    assert list(loader_of("torch-load-unsafe").load([str(path)], "cpu")) == ["w", "evil"]
    assert canary.exists()


def test_the_ceilings_memory_is_held_beyond_a_sample(
    tmp_path: Path,
) -> None:
    ceiling = ceiling_of("ceiling-read")
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(3 << 20))
    large.write_bytes(bytes(5 << 20))

    def address(path: Path) -> int:
        buffers, threads = ceiling.setup([str(path)], "cpu")
        threads.shutdown()
        found: int = buffers[str(path)].data_ptr()
        return found

    ceiling.reserve([str(large)])
    held = address(large)
    assert address(small) == held, "a warm-up load uses what is held for the load"
    ceiling.reserve([str(large)])
    assert address(large) == held


def test_a_ceiling_does_not_pass_off_what_it_read_before(tmp_path: Path) -> None:
    ceiling = ceiling_of("ceiling-read")
    file = tmp_path / "file"
    content = bytes(range(2, 250)) * 20_000
    file.write_bytes(content)
    for _ in range(2):
        buffers, threads = prepared = ceiling.setup([str(file)], "cpu")
        assert set(buffers[str(file)][::4096].tolist()) == {1}
        read = ceiling.load([str(file)], "cpu", prepared)
        threads.shutdown()
        assert bytes(read[str(file)].numpy())[: len(content)] == content
