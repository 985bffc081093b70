"""transformers: a text model by `from_pretrained` in both formats, and the same class filled by
`Module.load_state_dict`.

A format is a folder: the weights under the names the hub uses, and the configuration that the model
is made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import FORMATS as COMMON
from harness.checkpoints.formats import Format
from harness.loaders import ModelLoader

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "transformers")
_EXTRA = "pipelines"
_CONFIGURATION = "config.json"


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


def _form(name: str, format_name: str) -> Format:
    file, common = COMMON[format_name].file_names(1)[0], COMMON[format_name]

    def write(tensors: Tensors, folder: Path) -> None:
        common.write(tensors, folder / file)

    return Format(
        name,
        name,
        "",
        write,
        lambda folder: common.read(folder / file),
        folder=True,
        beside=_beside,
        warm_up="warm-up-gpt2",
    )


def _from_pretrained(files: Sequence[str], device: str, *, safetensors: bool) -> Any:
    from transformers import GPT2Model

    folder = str(Path(files[0]).parent)
    return GPT2Model.from_pretrained(folder, use_safetensors=safetensors, local_files_only=True).to(
        device
    )


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


def _weights(model: Any) -> Tensors:
    return dict(model.state_dict())


def _run(model: Any) -> None:
    """Run one token through it."""
    import torch

    with torch.inference_mode():
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


def _loader(
    name: str, format_name: str, load: Callable[..., Any], memory: float = 0.0
) -> ModelLoader:
    return ModelLoader(
        name,
        format_name,
        load,
        _REQUIRES,
        extra=_EXTRA,
        weights=_weights,
        run_once=_run,
        memory=memory,
    )


_SAFETENSORS, _BIN = "transformers-safetensors", "transformers-bin"
FORMATS = (_form(_SAFETENSORS, "safetensors"), _form(_BIN, "torch-zip"))
MODEL_LOADERS = (
    _loader("transformers-safetensors", _SAFETENSORS, partial(_from_pretrained, safetensors=True)),
    replace(
        _loader("transformers-device-map", _SAFETENSORS, _mapped_to),
        requires=(*_REQUIRES, "accelerate"),
        devices=("cuda",),
    ),
    _loader("transformers-bin", _BIN, partial(_from_pretrained, safetensors=False)),
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
)
