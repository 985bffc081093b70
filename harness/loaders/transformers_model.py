"""transformers: a text model by `from_pretrained` in both formats, in one file and in shards, and
the same class filled by `Module.load_state_dict` and by accelerate.

A format is a folder: the weights under the names the hub uses, and the configuration that the model
is made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import FORMATS as COMMON
from harness.checkpoints.formats import Format, write_shards
from harness.loaders import ModelLoader, variables
from harness.loaders.threads import COUNTS

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "transformers")
_EXTRA = "pipelines"
_CONFIGURATION = "config.json"
SHARDS = 4
"""How many files a model in shards has."""


def _beside(name: str) -> Mapping[str, str] | None:
    from harness.checkpoints.layouts import GPT2_SIZES

    if name not in GPT2_SIZES:
        return None
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    described = {
        "architectures": ["GPT2Model"],
        "model_type": "gpt2",
        "torch_dtype": "float32",
        **tokens,
        **GPT2_SIZES[name],
    }
    return {_CONFIGURATION: json.dumps(described, indent=2) + "\n"}


def _one_file(name: str, format_name: str) -> Format:
    file, common = COMMON[format_name].file_names(1)[0], COMMON[format_name]
    return _folder(
        name,
        lambda tensors, folder: common.write(tensors, folder / file),
        lambda folder: common.read(folder / file),
    )


def _folder(
    name: str, write: Callable[[Tensors, Path], None], read: Callable[[Path], Tensors]
) -> Format:
    return Format(name, name, "", write, read, folder=True, beside=_beside, warm_up="warm-up-gpt2")


def _write_shards(tensors: Tensors, folder: Path) -> None:
    write_shards(tensors, folder, COMMON["safetensors"].stem, SHARDS)


def _read_shards(folder: Path) -> Tensors:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in COMMON["safetensors"].read(file).items()
    }


def _from_pretrained(
    files: Sequence[str], device: str, *, safetensors: bool, **options: Any
) -> Any:
    from transformers import GPT2Model

    folder = str(Path(files[0]).parent)
    return GPT2Model.from_pretrained(
        folder, use_safetensors=safetensors, local_files_only=True, **options
    ).to(device)


def _with_threads(files: Sequence[str], device: str, *, threads: int) -> Any:
    """Load with a pool of so many threads, which no argument or variable of the library sets."""
    from transformers import core_model_loading

    usual = core_model_loading.GLOBAL_WORKERS
    core_model_loading.GLOBAL_WORKERS = threads
    try:
        return _from_pretrained(files, device, safetensors=True)
    finally:
        core_model_loading.GLOBAL_WORKERS = usual


def _without_threads(files: Sequence[str], device: str) -> Any:
    """Load tensor by tensor in the calling thread, as the library's variable has it."""
    with variables({"HF_DEACTIVATE_ASYNC_LOAD": "1"}):
        return _from_pretrained(files, device, safetensors=True)


def _has_threads() -> str | None:
    from transformers import core_model_loading

    if hasattr(core_model_loading, "GLOBAL_WORKERS"):
        return None
    return f"transformers {version('transformers')} loads without a pool of threads"


def _can_disable_mmap() -> str | None:
    import inspect

    from transformers import PreTrainedModel

    if "disable_mmap" in inspect.signature(PreTrainedModel.from_pretrained).parameters:
        return None
    return f"transformers {version('transformers')} has no disable_mmap"


def _mapped_to(files: Sequence[str], device: str) -> Any:
    """Load straight to the device: what `device_map` does, where the other way loads to the
    processor's memory and then moves.
    """
    from transformers import GPT2Model

    folder = str(Path(files[0]).parent)
    return GPT2Model.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, device_map=device
    )


def _filled(files: Sequence[str], device: str, *, format_name: str, assign: bool) -> Any:
    """Make a model without weights, of the meta device, and give it the file's: assigned as they
    are, or copied into memory of its own.
    """
    import torch
    from transformers import GPT2Config, GPT2Model

    folder = Path(files[0]).parent
    weights = COMMON[format_name].read(folder / COMMON[format_name].file_names(1)[0])
    with torch.device("meta"):
        model = GPT2Model(GPT2Config.from_json_file(folder / _CONFIGURATION))
    if not assign:
        model = model.to_empty(device=device)
    model.load_state_dict(weights, assign=assign)
    return model.to(device).eval()


def _dispatched(files: Sequence[str], device: str) -> Any:
    """Make a model without weights and have accelerate load them to where they are to be."""
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch
    from transformers import GPT2Config, GPT2Model

    folder = Path(files[0]).parent
    with init_empty_weights():
        model = GPT2Model(GPT2Config.from_json_file(folder / _CONFIGURATION))
    weights = str(folder / COMMON["safetensors"].file_names(1)[0])
    return load_checkpoint_and_dispatch(model, weights, device_map={"": device}).eval()


def _weights(model: Any) -> Tensors:
    return dict(model.state_dict())


def _run(model: Any) -> None:
    """Run one token through it."""
    import torch

    with torch.inference_mode():
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


def _loader(
    name: str, format_name: str, load: Callable[..., Any], memory: float = 0.0, **what: Any
) -> ModelLoader:
    return ModelLoader(
        name,
        format_name,
        load,
        extra=_EXTRA,
        weights=_weights,
        run_once=_run,
        memory=memory,
        **{"requires": _REQUIRES} | what,
    )


_SAFETENSORS, _SHARDED = "transformers-safetensors", "transformers-safetensors-sharded"
_BIN = "transformers-bin"
_WITH_ACCELERATE = (*_REQUIRES, "accelerate")
FORMATS = (
    _one_file(_SAFETENSORS, "safetensors"),
    _folder(_SHARDED, _write_shards, _read_shards),
    _one_file(_BIN, "torch-zip"),
)
MODEL_LOADERS = (
    _loader("transformers-safetensors", _SAFETENSORS, partial(_from_pretrained, safetensors=True)),
    _loader(
        "transformers-device-map",
        _SAFETENSORS,
        _mapped_to,
        requires=_WITH_ACCELERATE,
        devices=("cuda",),
    ),
    _loader(
        "transformers-disable-mmap",
        _SAFETENSORS,
        partial(_from_pretrained, safetensors=True, disable_mmap=True),
        2.0,
        supported=_can_disable_mmap,
    ),
    _loader("transformers-no-threads", _SAFETENSORS, _without_threads, supported=_has_threads),
    _loader("transformers-bin", _BIN, partial(_from_pretrained, safetensors=False)),
    _loader("transformers-sharded", _SHARDED, partial(_from_pretrained, safetensors=True)),
    _loader("accelerate-dispatch", _SAFETENSORS, _dispatched, 1.0, requires=_WITH_ACCELERATE),
    _loader(
        "assign-safetensors", _SAFETENSORS, partial(_filled, format_name="safetensors", assign=True)
    ),
    _loader(
        "copy-safetensors",
        _SAFETENSORS,
        partial(_filled, format_name="safetensors", assign=False),
        1.0,
    ),
    _loader("assign-torch", _BIN, partial(_filled, format_name="torch-zip", assign=True), 1.0),
    _loader("copy-torch", _BIN, partial(_filled, format_name="torch-zip", assign=False), 2.0),
    *(
        _loader(
            f"{family}-{threads}",
            format_name,
            partial(_with_threads, threads=threads),
            supported=_has_threads,
            threads=threads,
        )
        for family, format_name in (
            ("transformers-threads", _SAFETENSORS),
            ("transformers-sharded-threads", _SHARDED),
        )
        for threads in COUNTS
    ),
)
