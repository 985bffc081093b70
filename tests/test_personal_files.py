"""What people's real files are like: training checkpoints, variants, links, other libraries' files,
pages and pointers in place of weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.replay import Arm, replay
from harness.checkpoints.folders import weights_at
from harness.checkpoints.refusals import told_by_content, without_advice
from harness.checkpoints.sources import person_source
from harness.cli import main
from harness.errors import WeighbridgeError
from harness.records.cell import Cell
from harness.run.options import model_name
from harness.run.run import CellResult
from tests.helpers import make_sample

Capture = pytest.CaptureFixture[str]
SD = OrderedDict(
    (f"l{number}.weight", torch.arange(9.0).reshape(3, 3) + number) for number in range(2)
)
EMA = OrderedDict((name, tensor + 1) for name, tensor in SD.items())


def _exit(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def _refused(capsys: Capture, *arguments: object) -> str:
    """Return the one line that a command is refused by, with exit code 2."""
    assert _exit(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()  # the others are progress
    (line,) = (line for line in lines if line.startswith("weighbridge: "))
    assert "Traceback" not in line
    return line


def _same(file: Path, tensors: dict[str, torch.Tensor]) -> bool:
    held = load_file(file)
    return held.keys() == tensors.keys() and all(
        torch.equal(held[name], tensor) for name, tensor in tensors.items()
    )


WRAPPED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "module": (
        {"module": SD, "ds_version": "0.14", "global_steps": 3},
        ("under 'module'", "ds_version (text)", "global_steps (a number)"),
    ),
    "model_state_dict": (
        {
            "epoch": 3,
            "model_state_dict": SD,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "loss": 0.1,
        },
        ("under 'model_state_dict'", "epoch (a number)", "optimizer_state_dict (a table of 2)"),
    ),
    "model": ({"model": SD, "epoch": 3}, ("under 'model'", "epoch (a number)")),
    "state_dict in model": (
        {"model": {"state_dict": SD}, "epoch": 3},
        ("under 'model.state_dict'",),
    ),
    "a state dict in the state dict": (
        {"state_dict": {**SD, "state_dict": dict(SD)}},
        ("state_dict.state_dict (a table of 2)",),
    ),
    "a step among the tensors": (
        {"state_dict": {**SD, "global_step": 470_000}},
        ("state_dict.global_step (a number)",),
    ),
    "a step beside them": ({**SD, "step": 3}, ("left out: step (a number)",)),
    "extra state": ({**SD, "l0._extra_state": None}, ("l0._extra_state (nothing)",)),
    "a quantisation's type": (
        {**SD, "conv_in.weight.qtype": "qint8"},
        ("conv_in.weight.qtype (text)",),
    ),
}


@pytest.mark.parametrize("what", WRAPPED)
def test_a_state_dict_is_found_where_scripts_put_it(
    tmp_path: Path, capsys: Capture, what: str
) -> None:
    content, words = WRAPPED[what]
    file = tmp_path / "own.ckpt"
    torch.save(content, file)
    assert _exit("convert", file) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words)
    assert _same(tmp_path / "own.safetensors", SD)
    assert _exit("verify", file, tmp_path / "own.safetensors") == 0
    source = person_source(file, "own")
    assert source.given is None, "loaders would hand back the table around it"
    assert all(word in source.notes[0] for word in words)
    assert {name: tensor.tolist() for name, tensor in source.make(0).items()} == {
        name: tensor.tolist() for name, tensor in SD.items()
    }


def test_of_several_state_dicts_the_person_says_which(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "own.pth"
    torch.save({"params_ema": EMA, "params": SD, "deep": {"er": SD}}, file)
    assert "params (2 tensors), params_ema (2 tensors); say which one by --key" in _refused(
        capsys, "convert", file
    )
    assert not list(tmp_path.glob(".*"))
    assert "has no 'ema' for --key ema; there are: params_ema, params, deep" in _refused(
        capsys, "convert", file, "--key", "ema"
    )
    assert _exit("convert", file, tmp_path / "ema.safetensors", "--key", "params_ema") == 0
    assert "left out: params (a table of 2), deep (a table of 1)" in capsys.readouterr().out
    assert _same(tmp_path / "ema.safetensors", EMA)
    assert _exit("convert", file, tmp_path / "deep.safetensors", "--key", "deep.er") == 0
    assert _same(tmp_path / "deep.safetensors", SD)
    assert _exit("verify", file, tmp_path / "ema.safetensors", "--key", "params_ema") == 0
    assert person_source(file, "own", "params").make(0).keys() == SD.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds a list of 1; a checkpoint maps names to tensors"),
        ({}, "holds no tensors, at its top or under state_dict, "),
        (
            {"state_dict": {}, "epoch": 1},
            "there is 'state_dict' (a table of 0), 'epoch' (a number)",
        ),
        (
            {0: torch.ones(2), 1: torch.ones(2)},
            "names a tensor by a number (0), and a name is text",
        ),
        ({b"w": torch.ones(2)}, "names a tensor by bytes (b'w')"),
        ({("a", 1): torch.ones(2)}, "names a tensor by a list of 2"),
        ({"state_dict": dict(SD), "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ],
)
def test_what_holds_no_named_tensors_is_refused_in_one_line(
    tmp_path: Path, capsys: Capture, content: Any, words: str
) -> None:
    file = tmp_path / "own.ckpt"
    torch.save(content, file)
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    for line in (
        _refused(capsys, "convert", file),
        _refused(capsys, "verify", file, tmp_path / "other.safetensors"),
        _refused(capsys, "advise", file),
    ):
        assert words in line
        assert (
            "weights_only=False" not in line
            and "set to `False`" not in line
            and "safe_globals" not in line
        )
    assert sorted(path.name for path in tmp_path.iterdir() if not path.is_dir()) == [
        "other.safetensors",
        "own.ckpt",
    ]


def test_torchs_advice_to_switch_its_protection_off_is_never() -> None:
    said = (
        "Weights only load failed. In PyTorch 2.6, we changed the default value of the"
        " `weights_only` argument. Re-running `torch.load` with `weights_only` set to `False` will"
        " likely succeed.\nPlease file an issue with the following so that we can make"
        " `weights_only=True` compatible with your use case: WeightsUnpickler error: Unsupported"
        " operand 149\n\nCheck the documentation of torch.load"
    )
    assert without_advice(said) == "Unsupported operand 149"
    assert without_advice("plain words\nmore") == "plain words"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548118077\n"
NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "an LFS pointer": (
        LFS,
        (
            f"it is a Git LFS pointer of {len(LFS)} bytes, which stands for a file of 548,118,077"
            " bytes: fetch that with `git lfs pull`"
        ),
    ),
    "a page": (
        b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
        "it is an HTML page (Sign in), such as a login or an error",
    ),
    "XML": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "it is XML, such as a server's error",
    ),
    "JSON": (
        b'{"error": "Repository not found"}',
        'it is JSON, such as a server\'s error: {"error": "Repository not found"}',
    ),
    "nothing": (b"", "it is empty"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_lies_in_the_place_of_weights_is_called_what_it_is(
    tmp_path: Path, capsys: Capture, what: str, name: str
) -> None:
    content, words = NO_WEIGHTS[what]
    (tmp_path / name).write_bytes(content)
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    assert words in _refused(capsys, "verify", tmp_path / name, tmp_path / "other.safetensors")
    assert words in _refused(capsys, "advise", tmp_path / name)
    assert _exit("scan", tmp_path / name) == 2
    assert words in " ".join(capsys.readouterr().out.split())
    if name.endswith(".bin"):
        assert words in _refused(capsys, "convert", tmp_path / name)


def test_a_whole_file_is_not_called_cut(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({f"w{number}": torch.ones(5000) for number in range(4)}, file)
    assert told_by_content(file) is None
    whole = file.read_bytes()
    for kept in (100, len(whole) // 2, len(whole) - 2000, len(whole) - 10):
        file.write_bytes(whole[:kept])
        line = _refused(capsys, "convert", file)
        assert "cut short" in line and f"{kept:,}" in line
    file.write_bytes(whole[: len(whole) // 2])
    assert "are missing" in _refused(capsys, "advise", file)


def _shards(
    folder: Path,
    index: str,
    shard: str,
    tensors: dict[str, torch.Tensor],
    save: Callable[[Any, Path], None] = torch.save,
) -> None:
    """Write a tensor a shard, and their index."""
    folder.mkdir(parents=True)
    where = {}
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        where[name] = shard.format(number)
        save({name: tensor}, folder / where[name])
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("pytorch_model.bin.index.fp16.json", "pytorch_model.fp16-0000{}-of-00002.bin"),
        ("pytorch_model.bin.fp16.index.json", "pytorch_model-0000{}-of-00002.fp16.bin"),
    ],
)
def test_a_variants_shards_are_converted(tmp_path: Path, index: str, shard: str) -> None:
    _shards(tmp_path / "model", index, shard, SD)
    assert _exit("convert", tmp_path / "model") == 0
    made = tmp_path / "model-safetensors"
    named = json.loads((made / "model.safetensors.index.fp16.json").read_text())["weight_map"]
    assert named.keys() == SD.keys()
    assert all("fp16" in file and (made / file).is_file() for file in named.values())
    assert _exit("verify", tmp_path / "model", made) == 0
    assert (
        _exit("verify", tmp_path / "model" / index, made / "model.safetensors.index.fp16.json") == 0
    )


def test_of_a_name_in_two_shards_the_index_decides(tmp_path: Path, capsys: Capture) -> None:
    good, stale = torch.arange(4.0), torch.zeros(4)
    folder = tmp_path / "model"
    folder.mkdir()
    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    torch.save({"w": good, "a": torch.ones(2)}, folder / one)
    torch.save({"w": stale, "b": torch.ones(3)}, folder / two)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"w": one, "a": one, "b": two}})
    )
    assert _exit("convert", folder) == 0
    made = tmp_path / "model-safetensors"
    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    assert torch.equal(load_file(made / index["w"])["w"], good)
    assert [name for file in sorted(set(index.values())) for name in load_file(made / file)].count(
        "w"
    ) == 1
    assert _exit("verify", folder, made) == 0
    source = person_source(folder, "own")
    assert source.given is None, "its files hold more than counts"
    assert sum(len(source.make(shard)) for shard in range(2)) == 3
    whole = tmp_path / "whole.safetensors"
    save_file({"w": good, "a": torch.ones(2), "b": torch.ones(3)}, whole)
    assert _exit("verify", folder, whole) == 0
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"w": one, "a": one, "b": two, "c": two}})
    )
    capsys.readouterr()
    assert f"it says that c lies in {two}, which does not hold it" in _refused(
        capsys, "verify", folder, whole
    )


def test_a_single_file_goes_before_a_stale_index(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    _shards(
        folder, "model.safetensors.index.json", "model-0000{}-of-00002.safetensors", EMA, save_file
    )
    save_file(SD, folder / "model.safetensors")
    save_file(SD, tmp_path / "single.safetensors")
    assert _exit("verify", folder, tmp_path / "single.safetensors") == 0
    lines: list[str] = []
    assert weights_at(folder, lines.append).files == (folder / "model.safetensors",)
    assert lines == [
        "model.safetensors: taken, as transformers does, and not the shards of"
        " model.safetensors.index.json beside it"
    ]
    assert weights_at(folder / "model.safetensors.index.json").index, (
        "named by its path, the index is meant"
    )


def test_an_index_of_a_form_that_is_not_used_refuses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(SD, folder / "model.safetensors")
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"l0.weight": "pytorch_model-00001-of-00001.bin"}})
    )
    assert _exit("verify", folder, folder / "model.safetensors") == 0
    assert weights_at(folder).files == (folder / "model.safetensors",)


def test_an_index_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    _shards(folder, "pytorch_model.bin.index.json", "pytorch_model-0000{}-of-00002.bin", SD)
    index = folder / "pytorch_model.bin.index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes().replace(b", ", b",\r\n"))
    assert _exit("convert", folder) == 0


RAW = torch.arange(500.0).numpy().tobytes()
OTHERS: dict[str, tuple[dict[str, bytes], str]] = {
    "OpenVINO": (
        {"openvino/openvino_model.bin": RAW, "openvino/openvino_model.xml": b"<net/>"},
        "openvino/openvino_model.bin",
    ),
    "Core ML": (
        {"c/float32_model.mlpackage/Data/com.apple.CoreML/weights/weight.bin": b"\x02\0\0\0" + RAW},
        "weight.bin",
    ),
    "CTranslate2": ({"ct2/model.bin": b"\x06\0\0\0\x0c\0WhisperSpec\0" + RAW}, "ct2/model.bin"),
    "ONNX": ({"onnx/vitpose_data.bin": RAW}, "onnx/vitpose_data.bin"),
    "ggml": ({"ggml-model-q4_0.bin": b"ggjt" + RAW}, "ggml-model-q4_0.bin"),
}


@pytest.mark.parametrize("library", OTHERS)
def test_other_libraries_files_are_left_out_by_name(
    tmp_path: Path, capsys: Capture, library: str
) -> None:
    files, named = OTHERS[library]
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(SD, folder / "pytorch_model.bin")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert _exit("convert", folder) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(lines) == 1 and named in lines[0] and f"it is {library}'s" in lines[0]
    assert _same(tmp_path / "model-safetensors/model.safetensors", SD)
    assert person_source(folder, "own").make(0).keys() == SD.keys()


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def test_what_lies_behind_a_link_is_scanned_and_converted(tmp_path: Path, capsys: Capture) -> None:
    elsewhere = tmp_path / "other-disk"
    elsewhere.mkdir()
    torch.save({"a": torch.ones(3), "x": Evil()}, elsewhere / "evil.ckpt")
    models = tmp_path / "models"
    models.mkdir()
    (models / "Stable-diffusion").symlink_to(elsewhere)
    assert _exit("scan", models) == 1
    assert "evil.ckpt" in capsys.readouterr().out
    unet = tmp_path / "base-unet"
    unet.mkdir()
    torch.save(SD, unet / "diffusion_pytorch_model.bin")
    pipeline = tmp_path / "pipe"
    (pipeline / "vae").mkdir(parents=True)
    torch.save(EMA, pipeline / "vae/diffusion_pytorch_model.bin")
    (pipeline / "unet").symlink_to(unet)
    assert _exit("convert", pipeline) == 0
    assert _same(tmp_path / "pipe-safetensors/unet/diffusion_pytorch_model.safetensors", SD)
    assert _exit("verify", pipeline, tmp_path / "pipe-safetensors") == 0
    (pipeline / "text_encoder").symlink_to(tmp_path / "gone")
    shutil.rmtree(tmp_path / "pipe-safetensors")
    assert "text_encoder: a link that cannot be followed" in _refused(capsys, "convert", pipeline)
    assert not (tmp_path / "pipe-safetensors").exists()


@pytest.mark.parametrize("name", ["MODEL.CKPT", "model_best.pth.tar", "Model.PT", "model.Pth"])
def test_a_suffix_is_known_in_any_case(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": SD, "epoch": 3}, tmp_path / name)
    assert _exit("convert", tmp_path / name) == 0
    (made,) = tmp_path.glob("*.safetensors")
    assert made.stem.lower() == name.split(".")[0].lower()
    assert _same(made, SD)
    assert person_source(tmp_path / name, "own").make(0).keys() == SD.keys()


def test_safetensors_by_its_short_suffix_is_safetensors(tmp_path: Path) -> None:
    save_file(SD, tmp_path / "flux1-dev.sft")
    torch.save(SD, tmp_path / "same.bin")
    assert _exit("verify", tmp_path / "flux1-dev.sft", tmp_path / "same.bin") == 0
    source = person_source(tmp_path / "flux1-dev.sft", "own")
    assert source.given is not None and source.given.format == "safetensors"


def test_a_fifo_among_the_files_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(SD, folder / "pytorch_model.bin")
    os.mkfifo(folder / "log.pipe")
    assert _exit("scan", folder) == 0
    assert _exit("convert", folder) == 0
    assert _same(tmp_path / "model-safetensors/model.safetensors", SD)


def test_two_names_for_one_result_are_refused(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(SD, folder / "pytorch_model.bin")
    torch.save(EMA, folder / "model.bin")
    assert "would have the same name as safetensors; convert them one by one" in _refused(
        capsys, "convert", folder
    )
    assert _exit("convert", folder / "model.bin", tmp_path / "ema.safetensors") == 0


def test_several_sets_in_a_folder_ask_for_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "mistral"
    _shards(
        folder, "model.safetensors.index.json", "model-0000{}-of-00002.safetensors", SD, save_file
    )
    save_file(SD, folder / "consolidated.safetensors")
    assert weights_at(folder).index == folder / "model.safetensors.index.json", (
        "the usual name is meant"
    )
    (folder / "model.safetensors.index.json").unlink()
    for file in folder.glob("model-*"):
        file.unlink()
    save_file(SD, folder / "other.safetensors")
    with pytest.raises(
        WeighbridgeError,
        match=(
            r"several sets of weights: consolidated.safetensors, other.safetensors; name one of"
            r" them"
        ),
    ):
        weights_at(folder)
    assert model_name(folder / "model.safetensors.index.json") == "mistral"


@pytest.mark.parametrize(
    ("checkpoint", "another_could", "ends"),
    [
        ("own", True, pytest.skip.Exception),
        ("own", False, pytest.fail.Exception),
        ("gpt2", True, pytest.fail.Exception),
    ],
)
def test_a_loader_that_cannot_read_a_persons_checkpoint_fails(
    checkpoint: str, another_could: bool, ends: type[BaseException]
) -> None:
    cell = Cell("full-load", checkpoint, "warm", "cpu")
    failed = [
        make_sample(
            loader="a",
            checkpoint=checkpoint,
            block=block,
            valid=False,
            reason="raised",
            detail="KeyError",
        )
        for block in (0, 1)
    ]
    other = make_sample(
        loader="b",
        checkpoint=checkpoint,
        valid=another_could,
        reason=None if another_could else "raised",
    )
    result = CellResult(
        cell, (*failed, other), None, {"a": "failed 2 times in the same way: raised: KeyError"}
    )
    with pytest.raises(ends, match="KeyError"):
        replay(Arm("a", result), None)
