"""Diffusers: a Stable Diffusion pipeline from a folder or from a single file, in both formats.

A format is a folder: the weights, and the configurations and the tokenizer that a pipeline is made
from. Every call asks for float16, as the weights are, and for local files only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import FORMATS as COMMON
from harness.checkpoints.formats import Format, write_shards
from harness.loaders import ModelLoader

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "diffusers", "transformers", "accelerate")
_EXTRA = "pipelines"
_WARM_UP = "warm-up-stable-diffusion"
_STEMS = {"text_encoder": {"safetensors": "model", "torch-zip": "pytorch_model"}}
_CONFIGURATION = "configuration"
_LARGEST = "unet"
SHARDS = 4
"""How many files the largest network of a sharded pipeline has."""


def _weights_file(component: str, format_name: str) -> str:
    """Return the path of a component's weights in a pipeline's folder, as published."""
    stem = _STEMS.get(component, {}).get(format_name, "diffusion_pytorch_model")
    return f"{component}/{stem}{COMMON[format_name].suffix}"


def _write_pipeline(tensors: Tensors, folder: Path, format_name: str) -> None:
    from harness.checkpoints.stable_diffusion import COMPONENTS

    for component in COMPONENTS:
        own = {
            name.removeprefix(f"{component}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{component}.")
        }
        COMMON[format_name].write(own, folder / _weights_file(component, format_name))


def _read_pipeline(folder: Path, format_name: str) -> Tensors:
    from harness.checkpoints.stable_diffusion import COMPONENTS

    read = {
        component: COMMON[format_name].read(folder / _weights_file(component, format_name))
        for component in COMPONENTS
    }
    return {
        f"{component}.{name}": tensor
        for component, tensors in read.items()
        for name, tensor in tensors.items()
    }


def _write_sharded(tensors: Tensors, folder: Path) -> None:
    """Write a pipeline whose largest network is in shards, as `save_pretrained` writes them."""
    _write_pipeline(tensors, folder, "safetensors")
    whole = folder / _weights_file(_LARGEST, "safetensors")
    weights = COMMON["safetensors"].read(whole)
    write_shards(weights, whole.parent, whole.stem, SHARDS)
    whole.unlink()


def _read_sharded(folder: Path) -> Tensors:
    from harness.checkpoints.stable_diffusion import COMPONENTS

    return {
        f"{component}.{name}": tensor
        for component in COMPONENTS
        for file in sorted((folder / component).glob("*.safetensors"))
        for name, tensor in COMMON["safetensors"].read(file).items()
    }


def _write_single(tensors: Tensors, folder: Path, name: str) -> None:
    import torch
    from safetensors.torch import save_file

    from harness.checkpoints.single_file_names import to_original

    original = {name: tensor.contiguous() for name, tensor in to_original(tensors).items()}
    if name.endswith(".safetensors"):
        save_file(original, folder / name, metadata={"format": "pt"})
    else:
        torch.save({"state_dict": original}, folder / name)


def _read_single(folder: Path, name: str) -> Tensors:
    """Return the tensors under the names of the pipeline that the folder's configurations are
    of.
    """
    import torch
    from safetensors.torch import load_file

    from harness.checkpoints.single_file_names import from_original
    from harness.checkpoints.stable_diffusion import SHAPES, pipeline_layout
    from harness.checkpoints.stable_diffusion_files import pipeline_files

    state_dict = (
        load_file(folder / name)
        if name.endswith(".safetensors")
        else torch.load(folder / name, weights_only=True)["state_dict"]
    )
    described = (folder / _CONFIGURATION / "unet/config.json").read_text(encoding="utf-8")
    layout = next(
        pipeline_layout(shape)
        for shape in SHAPES
        if pipeline_files(shape)["unet/config.json"] == described
    )
    return from_original(state_dict, [tensor.name for tensor in layout.tensors])


def _beside(name: str, within: str = "") -> Mapping[str, str] | None:
    from harness.checkpoints.stable_diffusion import SHAPES
    from harness.checkpoints.stable_diffusion_files import pipeline_files

    return (
        {f"{within}{path}": text for path, text in pipeline_files(name).items()}
        if name in SHAPES
        else None
    )


def _from_pretrained(
    files: Sequence[str], device: str, *, safetensors: bool, **options: Any
) -> Any:
    import torch

    folder, parameters = (
        os.path.commonpath(files),
        {
            "dtype": torch.float16,
            "use_safetensors": safetensors,
            "local_files_only": True,
            **options,
        },
    )
    return _placed(_quiet().DiffusionPipeline.from_pretrained(folder, **parameters), device)


def _in_parallel(files: Sequence[str], device: str) -> Any:
    """Load the shards of a network side by side: what HF_ENABLE_PARALLEL_LOADING asks for.

    The library reads that variable when it is imported, which is long past here.
    """
    from diffusers.models import modeling_utils

    modeling_utils.HF_ENABLE_PARALLEL_LOADING = True
    try:
        return _from_pretrained(files, device, safetensors=True)
    finally:
        modeling_utils.HF_ENABLE_PARALLEL_LOADING = False


def _knows_parallel() -> str | None:
    from diffusers.models import modeling_utils

    if hasattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING"):
        return _takes_dtype()
    return f"diffusers {version('diffusers')} loads no shards side by side"


def _from_single_file(files: Sequence[str], device: str, *, name: str) -> Any:
    import torch

    folder = os.path.commonpath(files)
    parameters = {
        "config": f"{folder}/{_CONFIGURATION}",
        "dtype": torch.float16,
        "local_files_only": True,
    }
    return _placed(
        _quiet().StableDiffusionPipeline.from_single_file(f"{folder}/{name}", **parameters), device
    )


def _placed(pipeline: Any, device: str) -> Any:
    return pipeline if device == "cpu" else pipeline.to(device)


def _weights(pipeline: Any) -> Tensors:
    """Name a pipeline's tensors as the checkpoint does: transformers 5.6 took `text_model.` out of
    the encoder's names, not out of its files.
    """
    from harness.checkpoints.stable_diffusion import COMPONENTS

    tensors: Tensors = {}
    for component in COMPONENTS:
        for name, tensor in getattr(pipeline, component).state_dict().items():
            wrapped = component == "text_encoder" and not name.startswith("text_model.")
            tensors[f"{component}.{'text_model.' if wrapped else ''}{name}"] = tensor
    return tensors


def _run(pipeline: Any) -> None:
    """Encode one token, denoise the smallest latents, encode and decode the smallest image."""
    import torch

    kind, device = pipeline.unet.dtype, pipeline.unet.device
    with torch.inference_mode():
        text = pipeline.text_encoder(torch.zeros(1, 1, dtype=torch.long, device=device))[0]
        pipeline.unet(torch.ones(1, 4, 8, 8, dtype=kind, device=device), 1, text)
        pipeline.vae(torch.ones(1, 3, 8, 8, dtype=kind, device=device))


def _quiet() -> Any:
    """Return diffusers, told to draw no bars."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def _takes_dtype() -> str | None:
    release = version("diffusers")
    able = tuple(int(part) for part in release.split(".")[:2]) >= (0, 42)
    return (
        None
        if able
        else f"diffusers {release} cannot be asked for a dtype by that name (0.42 and later can)"
    )


def _folder_format(name: str, format_name: str) -> Format:
    write, read = (
        partial(_write_pipeline, format_name=format_name),
        partial(_read_pipeline, format_name=format_name),
    )
    return Format(name, name, "", write, read, folder=True, beside=_beside, warm_up=_WARM_UP)


def _single_format(name: str, file: str) -> Format:
    beside = partial(_beside, within=f"{_CONFIGURATION}/")
    write, read = partial(_write_single, name=file), partial(_read_single, name=file)
    return Format(name, name, "", write, read, folder=True, beside=beside, warm_up=_WARM_UP)


def _loader(
    name: str,
    format_name: str,
    load: Callable[..., Any],
    memory: float = 0.0,
    supported: Callable[[], str | None] = _takes_dtype,
) -> ModelLoader:
    return ModelLoader(
        name,
        format_name,
        load,
        _REQUIRES,
        supported,
        _EXTRA,
        weights=_weights,
        run_once=_run,
        memory=memory,
    )


FORMATS = (
    _folder_format("pipeline-safetensors", "safetensors"),
    _folder_format("pipeline-bin", "torch-zip"),
    Format(
        "pipeline-safetensors-sharded",
        "pipeline-safetensors-sharded",
        "",
        _write_sharded,
        _read_sharded,
        folder=True,
        beside=_beside,
        warm_up=_WARM_UP,
    ),
    _single_format("single-file-safetensors", "checkpoint.safetensors"),
    _single_format("single-file-ckpt", "checkpoint.ckpt"),
)
MODEL_LOADERS = (
    _loader(
        "diffusers-safetensors", "pipeline-safetensors", partial(_from_pretrained, safetensors=True)
    ),
    _loader("diffusers-bin", "pipeline-bin", partial(_from_pretrained, safetensors=False)),
    _loader(
        "diffusers-disable-mmap",
        "pipeline-safetensors",
        partial(_from_pretrained, safetensors=True, disable_mmap=True),
        2.0,
    ),
    _loader(
        "diffusers-sharded",
        "pipeline-safetensors-sharded",
        partial(_from_pretrained, safetensors=True),
    ),
    _loader(
        "diffusers-parallel",
        "pipeline-safetensors-sharded",
        _in_parallel,
        supported=_knows_parallel,
    ),
    _loader(
        "diffusers-single-file-safetensors",
        "single-file-safetensors",
        partial(_from_single_file, name="checkpoint.safetensors"),
    ),
    _loader(
        "diffusers-single-file-ckpt",
        "single-file-ckpt",
        partial(_from_single_file, name="checkpoint.ckpt"),
        1.0,
    ),
)
