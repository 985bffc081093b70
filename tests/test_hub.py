"""Hub ids: a local path comes first, the cache is enough without a network, and a pull request can
be loaded before anyone has seen it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from harness.checkpoints import hub
from harness.checkpoints.verify import differences
from harness.cli import main
from harness.errors import WeighbridgeError
from harness.run.options import model_name, parse
from tests.helpers import installed

huggingface_hub = installed("huggingface_hub")
installed("huggingface_hub.constants")

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_REPO = "some-org/tiny-gpt"
_CONFIG = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def _model(folder: Path) -> Any:
    """Make a folder with a tiny GPT-2, tied as all are, and return the model."""
    transformers = installed("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**_CONFIG))
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def _in_cache(cache: Path, source: Path, commit: str = _COMMIT, revision: str = "main") -> Path:
    """Put a folder's files into the cache as the hub's client lays them out, and return the
    repository's place.
    """

    home = cache / f"models--{_REPO.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for file in source.iterdir():
        (home / "blobs" / f"{commit[:4]}-{file.name}").write_bytes(file.read_bytes())
        (home / "snapshots" / commit / file.name).symlink_to(
            f"../../blobs/{commit[:4]}-{file.name}"
        )
    return home


def _plain(folder: Path) -> Path:
    folder.mkdir()
    torch.save({"a": torch.ones(3)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")
    return folder


def _loaded(revision: str, **how: Any) -> Any:
    transformers = installed("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(_REPO, revision=revision, **how)


def _error(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


# Ids


def test_a_local_path_comes_before_a_hub_id_of_the_same_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_cache(cache, _plain(tmp_path / "plain"))
    monkeypatch.chdir(tmp_path)
    assert hub.resolve(_REPO) == cache / f"models--some-org--tiny-gpt/snapshots/{_COMMIT}"
    (tmp_path / _REPO).mkdir(parents=True)
    assert hub.resolve(_REPO) == Path(_REPO)


def test_a_revision_is_what_is_taken(cache: Path, tmp_path: Path) -> None:
    _in_cache(cache, _plain(tmp_path / "plain"))
    other = _COMMIT[::-1]
    home = _in_cache(cache, tmp_path / "plain", other, "refs/pr/22")
    assert hub.resolve(f"{_REPO}@refs/pr/22") == home / "snapshots" / other
    assert hub.resolve(f"{_REPO}@{other}") == home / "snapshots" / other
    assert hub.resolve(f"{_REPO}@main") == hub.resolve(_REPO) == home / "snapshots" / _COMMIT


def test_an_id_that_is_not_in_the_cache_is_told_how(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["convert", "no/such@refs/pr/3"],
        ["verify", "no/such@refs/pr/3", "."],
        ["scan", "no/such@refs/pr/3"],
    ):
        said = _error([*arguments], capsys)
        assert "it is not complete in the hub's cache, and the hub cannot be reached" in said
        assert "`hf download no/such --revision refs/pr/3`" in said
    with pytest.raises(
        WeighbridgeError,
        match=r"^--model no/such: there is no such file or folder, and as a hub id it is not",
    ):
        parse({"model": ["no/such"]})
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "gone.bin",
        "gone/pytorch_model.bin",
        "/gone",
        "./gone",
        "gone/x/y",
        "org/name@",
        "org/name@../../x",
        "org/name@a/../../x",
    ],
)
def test_what_is_no_id_is_never_asked_of_the_hub(
    text: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("it was asked")
    )
    with pytest.raises(
        WeighbridgeError,
        match="there is no such file or folder, and a hub id is ORG/NAME or ORG/NAME@REVISION",
    ):
        hub.resolve(text)


def test_an_id_is_taken_by_every_command_and_by_model(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = _in_cache(cache, _plain(tmp_path / "plain")) / "snapshots" / _COMMIT
    options = parse({"model": [_REPO]})
    assert options.models == (snapshot,)
    assert options.model_names() == ("tiny-gpt-0123456",)
    assert model_name(snapshot / "pytorch_model.bin") == "tiny-gpt-0123456", (
        "a blob's name is nobody's"
    )
    assert main(["scan", _REPO]) == 0
    assert main(["convert", _REPO, str(tmp_path / "made")]) == 0
    assert main(["verify", _REPO, str(tmp_path / "made")]) == 0
    assert not (tmp_path / "made/config.json").is_symlink()
    assert "name a DESTINATION, or add --pull-request" in _error(["convert", _REPO], capsys)


def test_a_pull_request_that_is_here_is_not_asked_of_the_hub(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _in_cache(cache, _plain(tmp_path / "plain"), revision="refs/pr/1")
    ask = huggingface_hub.snapshot_download

    def offline_only(*asked: Any, local_files_only: bool = False, **how: Any) -> str:
        assert local_files_only, "the hub was asked"
        return str(ask(*asked, local_files_only=True, **how))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline_only)
    assert hub.resolve(f"{_REPO}@refs/pr/1") == home / "snapshots" / _COMMIT


def test_without_the_hubs_client_an_id_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        WeighbridgeError,
        match=r"huggingface_hub, which is not installed \(the extra pipelines has it\)",
    ):
        hub.resolve(_REPO)
    assert hub.resolve(str(Path.cwd())) == Path.cwd(), "a path needs none"


# Pull requests


def test_a_pull_request_is_loaded_from_the_cache_alone(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(tmp_path / "model")
    home = _in_cache(cache, tmp_path / "model")
    assert main(["convert", _REPO, "--pull-request"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{_REPO}@refs/pr/1"
    made = Path(
        huggingface_hub.snapshot_download(_REPO, revision="refs/pr/1", local_files_only=True)
    )
    assert (made.parent, len(made.name)) == (home / "snapshots", 40)
    assert (home / "refs/refs/pr/1").read_text() == made.name
    assert (home / "refs/main").read_text() == _COMMIT, "nothing is merged"
    assert {path.name for path in made.iterdir()} == {
        path.name for path in (tmp_path / "model").iterdir()
    } | {"model.safetensors"}
    for path in made.iterdir():
        assert path.is_symlink()
        assert path.resolve().parent == home / "blobs"
    assert (made / "config.json").resolve() == (
        home / "snapshots" / _COMMIT / "config.json"
    ).resolve(), "what was there is not copied"
    assert differences(home / "snapshots" / _COMMIT, made) == []
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    loaded = _loaded("refs/pr/1", cache_dir=cache, use_safetensors=True, local_files_only=True)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True)
    )


def test_the_next_number_is_taken_after_those_that_are_there(cache: Path, tmp_path: Path) -> None:
    home = _in_cache(cache, _plain(tmp_path / "plain"))
    _in_cache(cache, tmp_path / "plain", _COMMIT[::-1], "refs/pr/22")
    assert hub.open_pull_request(_REPO, None, print) == "refs/pr/23"
    assert hub.open_pull_request(_REPO, None, print) == "refs/pr/24"
    assert sorted(path.name for path in (home / "refs/refs/pr").iterdir()) == ["22", "23", "24"]
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_a_local_file_or_folder_is_put_into_the_repository(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _plain(tmp_path / "plain")
    assert "add --repo ORG/NAME" in _error(["convert", source, "--pull-request"], capsys)
    file = source / "pytorch_model.bin"
    assert "has no snapshot in the cache to add it to" in _error(
        ["convert", file, "--pull-request", "--repo", _REPO], capsys
    )
    assert main(["convert", str(source), "--pull-request", "--repo", _REPO]) == 0
    first = hub.resolve(f"{_REPO}@refs/pr/1")
    assert sorted(path.name for path in first.iterdir()) == [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
    ]
    assert torch.equal(safetensors.torch.load_file(first / "model.safetensors")["a"], torch.ones(3))
    (first.parents[1] / "refs/main").write_text(first.name)
    assert "holds model.safetensors already" in _error(
        ["convert", file, "--pull-request", "--repo", _REPO], capsys
    )
    assert "a pull request goes into the hub's cache" in _error(
        ["convert", source, tmp_path / "x", "--pull-request"], capsys
    )


def test_a_pull_request_of_shards_brings_their_index(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for name in names:
        torch.save({name: torch.ones(2)}, source / name)
    (source / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {name: name for name in names}})
    )
    _in_cache(cache, source)
    made = hub.resolve(f"{_REPO}@{hub.open_pull_request(_REPO, None, print)}")
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert {
        name: (made / file).is_file() for name, file in index["weight_map"].items()
    } == dict.fromkeys(names, True)


def test_a_malicious_source_opens_no_pull_request(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    home = _in_cache(cache, source)
    assert "found in a scan (imports os.system)" in _error(
        ["convert", _REPO, "--pull-request"], capsys
    )
    assert not (home / "refs/refs").exists() or list((home / "refs/refs/pr").iterdir()) == []
    assert [path.name for path in (home / "snapshots").iterdir()] == [_COMMIT]
