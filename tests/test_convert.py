"""Convert, verify and scan: nothing of a source is run, nothing of it is lost, and nothing that is
there is overwritten.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from harness.checkpoints import streamed_write
from harness.checkpoints.convert import convert, convert_file
from harness.checkpoints.folders import safetensors_name
from harness.checkpoints.mapped_files import open_mapped
from harness.checkpoints.safetensors_file import BY_TORCH
from harness.checkpoints.scan import ScanVerdict, exit_status, scan
from harness.checkpoints.verify import differences
from harness.cli import main
from harness.errors import WeighbridgeError
from harness.hostile import corpus, write_corpus
from tests.helpers import hear, installed, python

Tensors = dict[str, torch.Tensor]
_MIB = 1 << 20
ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def _tensors() -> Tensors:
    every = {
        dtype.code: _filled(getattr(torch, name)).reshape(2, 3) for name, dtype in BY_TORCH.items()
    }
    return every | {
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 3),
        "nan": torch.tensor([float("nan"), 1.0]),
    }


def _filled(dtype: torch.dtype) -> torch.Tensor:
    return (
        torch.arange(1, 7, dtype=torch.uint8).view(dtype)
        if dtype == torch.float4_e2m1fn_x2
        else torch.arange(1, 7).to(dtype)
    )


def _tied() -> Tensors:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "lm_head.weight": tensor,
        "embed.weight": tensor,
        "other.weight": tensor.clone(),
        "turned": torch.arange(6.0).reshape(2, 3).t(),
    }


def _save(content: object, path: Path, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _held(path: Path) -> tuple[Tensors, dict[str, str]]:
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    ours, theirs = (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)
    )
    return bool(torch.equal(ours, theirs))


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _refused(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line a command says that cannot do what it was asked."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


class _Canary:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that must not come to exist."""
    return tmp_path / "the-canary-sang"


# Convert: one file


@ZIP_AND_LEGACY
def test_every_dtype_comes_out_as_it_went_in(zipped: bool, tmp_path: Path) -> None:
    source = _save(_tensors(), tmp_path / "pytorch_model.bin", zipped)
    made = convert_file(source, tmp_path / "model.safetensors")
    held, metadata = _held(made.path)
    assert held.keys() == _tensors().keys() == set(made.names)
    assert [
        name for name, tensor in _tensors().items() if not _same_bytes(tensor, held[name])
    ] == []
    assert metadata == {"format": "pt"}
    assert made.bytes == sum(tensor.nbytes for tensor in held.values())
    assert made.largest == 48
    assert differences(source, made.path) == []


@ZIP_AND_LEGACY
def test_a_tie_and_a_turned_tensor_are_handled(zipped: bool, tmp_path: Path) -> None:
    source = _save(_tied(), tmp_path / "x.ckpt", zipped)
    tensors = _tied()
    del tensors["turned"]  # the hub's code meets one only alone
    removed = safetensors.torch._remove_duplicate_names(tensors)
    made = convert_file(source, tmp_path / "x.safetensors")
    held, metadata = _held(made.path)
    assert removed == {"embed.weight": ["lm_head.weight"]}
    assert metadata == {"format": "pt", "lm_head.weight": "embed.weight"}
    assert made.ties == {"lm_head.weight": "embed.weight"}
    assert held.keys() == {"embed.weight", "other.weight", "turned"}
    assert torch.equal(held["turned"], _tied()["turned"])
    assert differences(source, made.path) == []


def test_the_name_that_a_models_class_ties_is_dropped(tmp_path: Path) -> None:
    installed("transformers")
    tensor = torch.ones(4, 6)
    source = _save(
        {"lm_head.weight": tensor, "transformer.wte.weight": tensor}, tmp_path / "pytorch_model.bin"
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    )
    held, metadata = _held(convert(source, None, print))
    assert held.keys() == {"transformer.wte.weight"}, "the first by name would be lm_head.weight"
    assert metadata["lm_head.weight"] == "transformer.wte.weight"


@ZIP_AND_LEGACY
def test_part_of_a_tensor_is_not_lost_and_said_to_be_part(zipped: bool, tmp_path: Path) -> None:
    whole = torch.arange(100.0)
    source = _save(
        {"whole": whole, "half": whole[:50], "again": whole[:50], "lone": torch.arange(9.0)[3:5]},
        tmp_path / "x.bin",
        zipped,
    )
    held, metadata = _held(convert(source, None, print))
    assert torch.equal(held["again"], whole[:50])
    assert torch.equal(held["lone"], torch.tensor([3.0, 4.0]))
    assert metadata == {"format": "pt", "half": "again", "again": "whole"}
    assert differences(source, tmp_path / "x.safetensors") == []


def test_a_training_checkpoints_state_dict_is_taken(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    source = _save(
        {"state_dict": {"a": torch.nn.Parameter(torch.ones(2))}, "epoch": 3}, tmp_path / "x.ckpt"
    )
    held, _ = _held(convert(source, None, said.append))
    assert torch.equal(held["a"], torch.ones(2))
    assert any("epoch" in line for line in said)


@pytest.mark.parametrize(
    ("name", "hubs"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("pytorch_model.fp16.bin", "model.fp16.safetensors"),
        ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
        ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"),
        ("diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors"),
        ("x.ckpt", "x.safetensors"),
        ("v1.5.pth", "v1.5.safetensors"),
    ],
)
def test_a_converted_file_has_the_hubs_name(name: str, hubs: str) -> None:
    assert safetensors_name(name) == hubs


_BARE = """
import sys
from pathlib import Path
heavy = ("safetensors", "picklescan", "huggingface_hub", "transformers", "matplotlib", "pandas")
sys.modules.update(dict.fromkeys(heavy))
from harness.checkpoints.convert import convert_file
print(convert_file(Path(sys.argv[1]), Path(sys.argv[2])).bytes)
"""


def test_a_file_is_converted_where_there_is_nothing_but_torch(tmp_path: Path) -> None:
    source = _save({"a": torch.ones(3)}, tmp_path / "x.bin")
    with python(_BARE, source, tmp_path / "x.safetensors") as process:
        assert hear(process) == "12"


# Convert: folders


def _sharded(folder: Path) -> Path:
    one, two = {"a": torch.ones(3), "b": torch.zeros(2)}, {"c": torch.arange(4)}
    _save(one, folder / "pytorch_model-00001-of-00002.bin")
    _save(two, folder / "pytorch_model-00002-of-00002.bin")
    weight_map = dict.fromkeys(one, "pytorch_model-00001-of-00002.bin") | dict.fromkeys(
        two, "pytorch_model-00002-of-00002.bin"
    )
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text("{}")
    return folder


def _pipeline(folder: Path) -> Path:
    _save({"w": torch.ones(3)}, folder / "unet/diffusion_pytorch_model.bin")
    _save({"w": torch.zeros(3)}, folder / "text_encoder/pytorch_model.bin")
    (folder / "vae").mkdir()
    safetensors.torch.save_file(
        {"w": torch.ones(2)}, folder / "vae/diffusion_pytorch_model.safetensors", {"format": "pt"}
    )
    _save({"w": torch.ones(2)}, folder / "vae/diffusion_pytorch_model.bin")
    for name in (
        "model_index.json",
        "unet/config.json",
        "text_encoder/config.json",
        "vae/config.json",
        "tokenizer/vocab.txt",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_sharded_folder_comes_out_whole(
    tmp_path: Path,
) -> None:
    source = _sharded(tmp_path / "model")
    _save({"lr": 1}, source / "optimizer.pt")
    made = convert(source, None, print)
    assert made == tmp_path / "model-safetensors"
    assert _names(made) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 52},
        "weight_map": (
            dict.fromkeys("ab", "model-00001-of-00002.safetensors")
            | {"c": "model-00002-of-00002.safetensors"}
        ),
    }
    assert differences(source, made) == []


def test_a_pipeline_comes_out_with_everything_a_loader_needs(
    tmp_path: Path,
) -> None:
    source = _pipeline(tmp_path / "pipe")
    made = convert(source, tmp_path / "made", print)
    assert _names(made) == [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert (made / "vae/diffusion_pytorch_model.safetensors").read_bytes() == (
        source / "vae/diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert differences(source, made) == []


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    source = _sharded(tmp_path / "model")
    outside = _save({"c": torch.ones(1)}, tmp_path / "outside.bin")
    index = json.loads((source / "pytorch_model.bin.index.json").read_text())
    index["weight_map"]["c"] = f"../{outside.name}"
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(
        WeighbridgeError, match=r"names '\.\./outside\.bin', which is not a file of its folder"
    ):
        convert(source, None, print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "outside.bin"]


# Convert: refusals


def test_what_exists_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _save(_tied(), tmp_path / "in/pytorch_model.bin")
    (tmp_path / "in/model.safetensors").write_text("mine")
    (tmp_path / "in-safetensors").mkdir()
    assert "exists already and is not changed" in _refused(["convert", source], capsys)
    assert "exists already and is not changed" in _refused(["convert", tmp_path / "in"], capsys)
    assert (tmp_path / "in/model.safetensors").read_text() == "mine"
    assert list((tmp_path / "in-safetensors").iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, made = _save(_tied(), tmp_path / "pytorch_model.bin"), tmp_path / "model.safetensors"
    write = streamed_write.stream

    def slow(path: Path, start: bytes, tensors: list[torch.Tensor]) -> None:
        write(path, start, tensors)
        made.write_text("mine")

    monkeypatch.setattr("harness.checkpoints.convert.stream", slow)
    with pytest.raises(WeighbridgeError, match="exists already"):
        convert(source, None, print)
    assert made.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "pytorch_model.bin",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "names that are numbers": (
            {0: torch.ones(1)},
            "names a tensor by a number (0), and a name is text",
        ),
        "a tensor alone": (torch.ones(1), "holds a tensor; a checkpoint maps names to tensors"),
        "a dtype": (
            {"a": torch.ones(1, dtype=torch.complex128)},
            "a is of torch.complex128, which safetensors cannot hold",
        ),
        "sparse": (
            {"a": torch.ones(2, 2).to_sparse()},
            "a is no dense tensor of the CPU (torch.sparse_coo)",
        ),
    }.values(),
    ids=["names that are numbers", "a tensor alone", "a dtype", "sparse"],
)
@ZIP_AND_LEGACY
def test_what_safetensors_cannot_hold_is_refused_by_name(
    content: object, said: str, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _save(content, tmp_path / "pytorch_model.bin", zipped)
    assert said in _refused(["convert", source], capsys)
    assert _names(tmp_path) == ["pytorch_model.bin"]


def test_bad_arguments_are_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _save(_tied(), tmp_path / "pytorch_model.bin")
    made = convert(source, None, print)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no such file or folder" in _refused(["convert", tmp_path / "gone.bin"], capsys)
    assert "there is no such file or folder" in _refused(
        ["verify", source, tmp_path / "gone"], capsys
    )
    assert "there is no such file or folder" in _refused(["scan", tmp_path / "gone"], capsys)
    assert "has no torch weights to convert" in _refused(["convert", empty], capsys)
    assert "there is nothing to convert" in _refused(["convert", made], capsys)
    assert "a safetensors file ends in .safetensors" in _refused(
        ["convert", source, tmp_path / "x.bin"], capsys
    )
    assert "its folder does not exist" in _refused(
        ["convert", source, tmp_path / "no/x.safetensors"], capsys
    )
    assert "the folder holds no weights" in _refused(["verify", empty, made], capsys)
    assert "add --pull-request" in _refused(["convert", source, "--repo", "a/b"], capsys)


@pytest.mark.parametrize("left", [400, 900, -10])
@ZIP_AND_LEGACY
def test_a_file_cut_short_is_refused(
    left: int, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _save(_tensors(), tmp_path / "pytorch_model.bin", zipped)
    source.write_bytes(source.read_bytes()[:left])
    assert "pytorch_model.bin" in _refused(["convert", source], capsys)
    assert "pytorch_model.bin" in _refused(["verify", source, source], capsys)
    assert _names(tmp_path) == ["pytorch_model.bin"]
    if zipped or left == 400:
        assert main(["scan", str(source)]) == 2


# Nothing of a source is run


@ZIP_AND_LEGACY
def test_nothing_of_a_malicious_file_is_run(
    zipped: bool, tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _save(
        {"a": torch.ones(2), "x": _Canary(canary)}, tmp_path / "in/pytorch_model.bin", zipped
    )
    assert "found in a scan (imports posix.system)" in _refused(["convert", source], capsys)
    assert "found in a scan (imports posix.system)" in _refused(
        ["convert", tmp_path / "in"], capsys
    )
    with pytest.raises(
        WeighbridgeError,
        match=r"asks for posix.system, which is not allowed; nothing of it was run",
    ):
        convert_file(source, tmp_path / "unscanned.safetensors")
    assert "asks for posix.system" in _refused(["verify", source, source], capsys)
    assert main(["scan", str(source)]) == 1
    assert "posix.system" in capsys.readouterr().out
    assert not canary.exists()
    assert _names(tmp_path) == ["in/pytorch_model.bin"]
    torch.load(source, weights_only=False)
    assert canary.exists(), "the canary of this test cannot sing"


# Bounds and ends


_LARGE = 640 * _MIB
_BOUNDED = """
import resource, sys, threading
from pathlib import Path
from harness.checkpoints import scan, convert, verify

def status(key):
    lines = (line for line in open("/proc/self/status") if line.startswith(key))
    return int(next(lines).split()[1]) * 1024

source, made, what = map(Path, sys.argv[1:])
from picklescan import scanner
before, peak, done = status("RssAnon"), [0], threading.Event()
def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], status("RssAnon"))
thread = threading.Thread(target=watch)
thread.start()
held = status("VmHWM")
if str(what) == "convert":
    convert.convert(source, made, lambda line: None)
else:
    assert verify.differences(source, made) == []
done.set()
thread.join()
print(peak[0] - before, status("VmHWM") - held)
"""


@pytest.mark.slow
@ZIP_AND_LEGACY
def test_memory_is_bounded_whatever_the_size_of_the_checkpoint(
    zipped: bool, tmp_path: Path
) -> None:
    """Twenty tensors of 32 MB: bounds of 100 MB hold only where not even all that is mapped stays
    resident.
    """

    block = torch.arange(_LARGE // 20 // 4, dtype=torch.int32)
    source = _save(
        {f"{number}": block + number for number in range(20)},
        tmp_path / "pytorch_model.bin",
        zipped,
    )
    for what in ("convert", "verify"):
        with python(_BOUNDED, source, tmp_path / "model.safetensors", what) as process:
            anonymous, resident = map(int, hear(process).split())
        assert anonymous < 100 * _MIB, what
        assert resident < 200 * _MIB, what
    assert (tmp_path / "model.safetensors").stat().st_size > _LARGE > 3 * 200 * _MIB


_KILLED = """
import sys
from pathlib import Path
from harness.checkpoints import convert
from harness.checkpoints import streamed_write

put, puts = streamed_write._put, []

def slow(fd, data):
    put(fd, data)
    puts.append(fd)
    if len(puts) == 3:
        print("writing", flush=True)
        sys.stdin.readline()

streamed_write._put = slow
convert.convert(Path(sys.argv[1]), None, lambda line: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_killed_convert_leaves_nothing_that_looks_finished(folder: bool, tmp_path: Path) -> None:
    file = _save(_tensors(), tmp_path / "in/pytorch_model.bin")
    source = file.parent if folder else file
    with python(_KILLED, source) as process:
        assert hear(process) == "writing"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    left = {part for name in _names(tmp_path) for part in Path(name).parts} - {
        "in",
        "pytorch_model.bin",
    }
    assert left, "it was killed before it wrote anything"
    outermost = {
        name.split("/")[0 if folder else 1]
        for name in _names(tmp_path)
        if "pytorch_model.bin" not in name
    }
    assert all(name.startswith(".") and ".part" in name for name in outermost), outermost
    assert differences(source, convert(source, None, print)) == []


# Verify


def _flip(tensors: Tensors) -> None:
    tensors["other.weight"].view(torch.uint8)[2, 5] ^= 1


def _rename(tensors: Tensors) -> None:
    tensors["renamed"] = tensors.pop("other.weight")


def _retype(tensors: Tensors) -> None:
    tensors["other.weight"] = tensors["other.weight"].view(torch.int32)


def _reshape(tensors: Tensors) -> None:
    tensors["other.weight"] = tensors["other.weight"].reshape(6, 4)


def _untie(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()


def _tie_to_another(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["other.weight"]


def _drop(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]


@pytest.mark.parametrize(
    ("inject", "said"),
    [
        (
            _flip,
            "other.weight: 1 of 24 elements differ in their bytes, the first of them number 13",
        ),
        (_rename, "renamed: only in "),
        (_retype, "other.weight: dtype float32 and int32"),
        (_reshape, "other.weight: shape [4, 6] and [6, 4]"),
        (
            _untie,
            "lm_head.weight: in A it is one tensor with embed.weight, in B it is tied to none",
        ),
        (
            _tie_to_another,
            (
                "lm_head.weight: in A it is one tensor with embed.weight, in B it is one tensor"
                " with other.weight"
            ),
        ),
        (_drop, "lm_head.weight: only in A"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("format_name", ["safetensors", "zip", "legacy"])
def test_verify_finds_a_injected_fault_in_every_format(
    inject: Callable[[Tensors], None],
    said: str,
    format_name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = _save(_tied(), tmp_path / "a.bin"), tmp_path / "b.safetensors"
    tensors = _tied()
    inject(tensors)
    injected = _save(tensors, tmp_path / "b.bin", format_name != "legacy")
    if format_name == "safetensors":
        convert(injected, b, print)
    else:
        b = injected
    assert main(["verify", str(a), str(b)]) == 1
    found = capsys.readouterr().out.replace(str(a), "A").replace(str(b), "B")
    assert said in found, found


def test_verify_says_every_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _save(_tied(), tmp_path / "a.bin")
    assert main(["verify", str(a), str(_save(_tied(), tmp_path / "b.bin", False))]) == 0
    tensors = _tied()
    _flip(tensors)
    _untie(tensors)
    tensors["more"] = torch.ones(1)
    found = differences(a, _save(tensors, tmp_path / "c.bin"))
    assert [line.split(":")[0] for line in found] == [
        "more",
        "other.weight",
        "embed.weight",
        "lm_head.weight",
    ]


def test_a_tie_that_a_copy_replaces_in_safetensors_is_found(
    tmp_path: Path,
) -> None:
    a, b = _save(_tied(), tmp_path / "a.bin"), tmp_path / "b.safetensors"
    safetensors.torch.save_file(
        {name: tensor.clone().contiguous() for name, tensor in _tied().items()}, b
    )
    assert len(differences(a, b)) == len(differences(b, a)) == 2


def test_verify_goes_through_a_pipeline_component_by_component(tmp_path: Path) -> None:
    source = _pipeline(tmp_path / "pipe")
    made = convert(source, None, print)
    (made / "unet/diffusion_pytorch_model.safetensors").unlink()
    safetensors.torch.save_file({"w": torch.zeros(3) - 1}, made / "text_encoder/model.safetensors")
    found = differences(source, made)
    assert [line.split(": ")[0] for line in found] == [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ]


# Scan


def test_scan_tells_every_file_by_its_content(
    tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in/deep"
    evil = {"a": torch.ones(1), "x": _Canary(canary)}
    clean = _save({"p": torch.nn.Parameter(torch.ones(1))}, folder / "clean.bin")
    _save({"p": torch.ones(1)}, folder / "legacy.pt", False)
    convert(clean, None, print)
    assert main(["scan", str(tmp_path)]) == 0
    shutil.copy(clean, folder / "zip.safetensors")
    (folder / "config.json").write_text("{}")
    assert exit_status(scan([tmp_path])) == 0
    (folder / "cut.safetensors").write_bytes((folder / "clean.safetensors").read_bytes()[:-1])
    (folder / "cut.pkl").write_bytes(pickle.dumps(list(range(100)))[:-1])
    (folder / "unknown.bin").write_bytes(pickle.dumps(WeighbridgeError))
    (folder / "empty.bin").write_bytes(b"")
    assert main(["scan", str(tmp_path)]) == 2
    (folder / "pickle.safetensors").write_bytes(pickle.dumps(evil["x"]))
    (folder / "old.safetensors").write_bytes(pickle.dumps(evil["x"], protocol=0))
    _save(evil, folder / "evil.safetensors")
    _save(evil, folder / "evil.pth", False)
    verdicts = {
        finding.path.name: finding.verdict
        for finding in scan([tmp_path])
        if not finding.passed_over
    }
    assert verdicts == {
        "clean.bin": ScanVerdict.CLEAN,
        "clean.safetensors": ScanVerdict.CLEAN,
        "legacy.pt": ScanVerdict.CLEAN,
        "zip.safetensors": ScanVerdict.CLEAN,
        "cut.safetensors": ScanVerdict.UNKNOWN,
        "cut.pkl": ScanVerdict.UNKNOWN,
        "unknown.bin": ScanVerdict.UNKNOWN,
        "empty.bin": ScanVerdict.UNKNOWN,
        "pickle.safetensors": ScanVerdict.FOUND,
        "old.safetensors": ScanVerdict.FOUND,
        "evil.safetensors": ScanVerdict.FOUND,
        "evil.pth": ScanVerdict.FOUND,
    }
    capsys.readouterr()
    assert main(["scan", str(folder), str(folder / "config.json")]) == 1, (
        "what was found outweighs what could not be told"
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["file", "kind", "verdict", "found"]
    assert len(said) == len(verdicts) + 3, "a file named by itself has a line, whatever it is"
    assert any("clean.safetensors" in line and "holds no pickle" in line for line in said)
    assert not canary.exists()


def test_an_archive_behind_a_harmless_pickle_is_scanned_as_well(
    tmp_path: Path, canary: Path
) -> None:
    evil = _save({"x": _Canary(canary)}, tmp_path / "evil.bin")
    both = tmp_path / "both.pkl"
    both.write_bytes(pickle.dumps(1) + evil.read_bytes())
    assert [finding.verdict for finding in scan([both])] == [ScanVerdict.FOUND]


def test_opening_a_file_touches_none_of_its_content(tmp_path: Path) -> None:
    """A tensor lies in the mapping: what is written to the file afterwards is what it shows."""
    for zipped in (True, False):
        source = _save({"a": torch.full((4096,), 7, dtype=torch.uint8)}, tmp_path / "x.bin", zipped)
        opened = open_mapped(source)
        content = source.read_bytes()
        at = content.index(b"\7" * 4096)
        with source.open("r+b") as file:
            file.seek(at)
            file.write(b"\1" * 4096)
        assert (opened.tensors["a"] == 1).all()


@pytest.mark.parametrize(("name", "there"), [("numel-more.bin", 24), ("record-short.bin", 20)])
def test_a_storage_longer_than_its_record_is_not_filled(
    name: str, there: int, tmp_path: Path
) -> None:
    (hostile_file,) = [one for one in corpus(["lying-tensors"]) if one.name == name]
    written, _ = write_corpus([hostile_file], tmp_path)
    assert (
        torch.load(written[0].files[0], mmap=True, weights_only=True)["a"].nbytes > there
    )  # torch itself takes it
    with pytest.raises(WeighbridgeError, match="its record holds"):
        convert_file(written[0].files[0], tmp_path / "made.safetensors")
    assert not (tmp_path / "made.safetensors").exists()


def test_a_scan_looks_into_an_archive_that_lies_in_safetensors(tmp_path: Path) -> None:
    (hostile_file,) = [one for one in corpus(["renamed"]) if one.name == "two-in-one.safetensors"]
    written, _ = write_corpus([hostile_file], tmp_path)
    (finding,) = scan([written[0].files[0]])
    assert (finding.kind, finding.verdict) == ("safetensors", ScanVerdict.FOUND)
    assert "os.system" in finding.detail
