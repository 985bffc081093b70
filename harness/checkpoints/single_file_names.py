"""The single file of a Stable Diffusion checkpoint: the names and shapes of the first publication,
in which people still pass models on.

The other way round from diffusers' `from_single_file`, which the loaders of such a file are held
to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_UNET: Sequence[_Rule] = (
    (r"^conv_in", "input_blocks.0.0"),
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (
        r"^down_blocks\.(\d)\.resnets\.(\d)",
        lambda match: f"input_blocks.{3 * int(match[1]) + int(match[2]) + 1}.0",
    ),
    (
        r"^down_blocks\.(\d)\.attentions\.(\d)",
        lambda match: f"input_blocks.{3 * int(match[1]) + int(match[2]) + 1}.1",
    ),
    (
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv",
        lambda match: f"input_blocks.{3 * int(match[1]) + 3}.0.op",
    ),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.(\d)", lambda match: f"middle_block.{2 * int(match[1])}"),
    (
        r"^up_blocks\.(\d)\.resnets\.(\d)",
        lambda match: f"output_blocks.{3 * int(match[1]) + int(match[2])}.0",
    ),
    (
        r"^up_blocks\.(\d)\.attentions\.(\d)",
        lambda match: f"output_blocks.{3 * int(match[1]) + int(match[2])}.1",
    ),
    (
        r"^up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda match: f"output_blocks.{3 * int(match[1]) + 2}.{1 if match[1] == '0' else 2}.conv",
    ),
    (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm1", r"\1.in_layers.0"),
    (r"(put_blocks\.\d+\.0|middle_block\.[02])\.conv1", r"\1.in_layers.2"),
    (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm2", r"\1.out_layers.0"),
    (r"(put_blocks\.\d+\.0|middle_block\.[02])\.conv2", r"\1.out_layers.3"),
    (r"\.time_emb_proj", ".emb_layers.1"),
    (r"\.conv_shortcut", ".skip_connection"),
)
_VAE: Sequence[_Rule] = (
    (r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (
        r"^decoder\.up_blocks\.(\d)\.resnets\.(\d)",
        lambda match: f"decoder.up.{3 - int(match[1])}.block.{match[2]}",
    ),
    (
        r"^decoder\.up_blocks\.(\d)\.upsamplers\.0",
        lambda match: f"decoder.up.{3 - int(match[1])}.upsample",
    ),
    (r"\.mid_block\.resnets\.(\d)", lambda match: f".mid.block_{int(match[1]) + 1}"),
    (r"\.mid_block\.attentions\.0", ".mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"\.conv_norm_out", ".norm_out"),
    (r"\.conv_shortcut", ".nin_shortcut"),
)
_TEXT: Sequence[_Rule] = (
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"\.layer_norm", ".ln_"),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj", ".attn.out_proj"),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
)
_COMPONENTS = {
    "unet": ("model.diffusion_model.", _UNET),
    "vae": ("first_stage_model.", _VAE),
    "text_encoder": ("cond_stage_model.model.", _TEXT),
}
_FUSED = ("q_proj", "k_proj", "v_proj")
"""Three matrices that are one in the single file, in this order."""


def original_name(name: str) -> str:
    """Return a tensor's name in the single file.

    Those of queries, keys and values of a text encoder's layer are the same.
    """
    component, _, rest = name.partition(".")
    prefix, rules = _COMPONENTS[component]
    for pattern, replacement in rules:
        rest = re.sub(pattern, replacement, rest)
    return prefix + rest


def to_original(tensors: Tensors) -> Tensors:
    """Return a pipeline's tensors as the single file holds them: renamed, queries, keys and values
    of the text encoder in one matrix, the autoencoder's attention as convolutions of one pixel.
    """
    import torch

    original: Tensors = {}
    for name, tensor in tensors.items():
        new = original_name(name)
        if _is_fused(name):
            if ".q_proj." in name:
                original[new] = torch.cat(
                    [tensors[name.replace("q_proj", part)] for part in _FUSED]
                )
        else:
            original[new] = (
                tensor[:, :, None, None] if _is_pixelwise(name, tensor.shape) else tensor
            )
    return original


def from_original(original: Tensors, names: Iterable[str]) -> Tensors:
    """Return the tensors of these names from what a single file holds.

    A name it has nothing for is left out.
    """
    tensors: Tensors = {}
    for name in names:
        tensor = original.get(original_name(name))
        if tensor is None:
            continue
        if _is_fused(name):
            width = tensor.shape[0] // 3
            place = next(number for number, part in enumerate(_FUSED) if f".{part}." in name)
            tensor = tensor[place * width : (place + 1) * width]
        tensors[name] = tensor[:, :, 0, 0] if _is_pixelwise(name, tensor.shape[:2]) else tensor
    return tensors


def _is_fused(name: str) -> bool:
    return name.startswith("text_encoder.") and any(
        f".self_attn.{part}." in name for part in _FUSED
    )


def _is_pixelwise(name: str, shape: Sequence[int]) -> bool:
    return (
        name.startswith("vae.")
        and ".attentions." in name
        and name.endswith(".weight")
        and len(shape) == 2
        and "norm" not in name
    )
