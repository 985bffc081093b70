"""What stands beside a Stable Diffusion pipeline's weights: its configurations, as published, and
its tokenizer.

Only the vocabulary is made up: as many entries as the published one, made of pairs of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from harness.checkpoints.stable_diffusion import CROSS, LATENTS, LAYERS, SHAPES, Shape

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@cache
def pipeline_files(name: str) -> dict[str, str]:
    """Return what a pipeline's folder holds beside its weights: the text of each file by its
    path.
    """
    shape = SHAPES[name]
    configurations = {
        "model_index.json": _INDEX,
        "scheduler/scheduler_config.json": _SCHEDULER,
        "text_encoder/config.json": _text_configuration(shape),
        "tokenizer/special_tokens_map.json": {
            "bos_token": _SPECIAL[0],
            "eos_token": _SPECIAL[1],
            "pad_token": "!",
            "unk_token": _SPECIAL[1],
        },
        "tokenizer/tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "pad_token": "!",
        },
        "unet/config.json": _unet_configuration(shape),
        "vae/config.json": _vae_configuration(shape),
    }
    merges = _merges(shape.vocabulary)
    texts = {path: json.dumps(content, indent=2) + "\n" for path, content in configurations.items()}
    return texts | {
        "tokenizer/merges.txt": (
            "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
        ),
        "tokenizer/vocab.json": json.dumps(_vocabulary(merges), ensure_ascii=False),
    }


_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.8.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
}


def _unet_configuration(shape: Shape) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.8.0",
        "act_fn": "silu",
        "attention_head_dim": [
            width // shape.head for width in shape.unet
        ],  # the number of heads: a name that stuck
        "block_out_channels": list(shape.unet),
        "cross_attention_dim": shape.text_width,
        "down_block_types": list(CROSS),
        "in_channels": LATENTS,
        "layers_per_block": LAYERS,
        "norm_num_groups": shape.groups,
        "out_channels": LATENTS,
        "sample_size": 96,
        "up_block_types": [kind.replace("Down", "Up") for kind in CROSS[::-1]],
        "use_linear_projection": True,
    }


def _vae_configuration(shape: Shape) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.8.0",
        "act_fn": "silu",
        "block_out_channels": list(shape.vae),
        "down_block_types": ["DownEncoderBlock2D"] * len(shape.vae),
        "in_channels": 3,
        "latent_channels": LATENTS,
        "layers_per_block": LAYERS,
        "norm_num_groups": shape.groups,
        "out_channels": 3,
        "sample_size": 768,
        "up_block_types": ["UpDecoderBlock2D"] * len(shape.vae),
    }


def _text_configuration(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": shape.vocabulary - 2,
        "eos_token_id": shape.vocabulary - 1,
        "hidden_act": "gelu",
        "hidden_size": shape.text_width,
        "intermediate_size": shape.text_inner,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": shape.text_width // shape.head,
        "num_hidden_layers": shape.text_layers,
        "pad_token_id": 0,
        "projection_dim": shape.text_width // 2,
        "torch_dtype": "float16",
        "vocab_size": shape.vocabulary,
    }


def _symbols() -> list[str]:
    """Return one printable character for each byte, as GPT-2's and CLIP's vocabularies begin."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    shifted = (256 + place for place in range(256 - len(printable)))
    return [chr(byte) for byte in printable] + [chr(code) for code in shifted]


def _merges(vocabulary: int) -> list[tuple[str, str]]:
    """Return as many pairs of bytes as fill up a vocabulary."""
    symbols = _symbols()
    pairs: Iterator[tuple[str, str]] = ((left, right) for left in symbols for right in symbols)
    return [next(pairs) for _ in range(vocabulary - 2 * len(symbols) - len(_SPECIAL))]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    symbols = _symbols()
    entries = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *(left + right for left, right in merges),
        *_SPECIAL,
    ]
    return {entry: number for number, entry in enumerate(entries)}
