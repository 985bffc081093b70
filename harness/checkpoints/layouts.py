"""Layouts: names, shapes and dtypes of published models, written out as rules.

Each layout holds what the published weights file holds; what was left out or chosen stands beside
it.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.checkpoints.layout import Entries, Layout, TensorSpec
from harness.checkpoints.stable_diffusion import pipeline_layout


def _lora_1000() -> Entries:
    """1,000 adapter matrices of 32x32, named as PEFT names them: the many-small-tensors case."""
    modules = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.down_proj",
    )
    for layer in range(100):
        for module in modules:
            for half in ("lora_A", "lora_B"):
                yield f"base_model.model.model.layers.{layer}.{module}.{half}.weight", (32, 32)


def _gpt2(name: str) -> Entries:
    """openai-community/gpt2 without its twelve constant `attn.bias` masks, which later releases
    dropped: 498 MB.
    """
    sizes = GPT2_SIZES[name]
    width, layers = sizes["n_embd"], sizes["n_layer"]
    yield "wte.weight", (sizes["vocab_size"], width)
    yield "wpe.weight", (sizes["n_positions"], width)
    for layer in range(layers):
        block = f"h.{layer}"
        for name, shape in (
            ("ln_1.weight", (width,)),
            ("ln_1.bias", (width,)),
            ("attn.c_attn.weight", (width, 3 * width)),
            ("attn.c_attn.bias", (3 * width,)),
            ("attn.c_proj.weight", (width, width)),
            ("attn.c_proj.bias", (width,)),
            ("ln_2.weight", (width,)),
            ("ln_2.bias", (width,)),
            ("mlp.c_fc.weight", (width, 4 * width)),
            ("mlp.c_fc.bias", (4 * width,)),
            ("mlp.c_proj.weight", (4 * width, width)),
            ("mlp.c_proj.bias", (width,)),
        ):
            yield f"{block}.{name}", shape
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)


def _bert(vocabulary: int, width: int, layers: int, inner: int, positions: int) -> Entries:
    yield "embeddings.word_embeddings.weight", (vocabulary, width)
    yield "embeddings.position_embeddings.weight", (positions, width)
    yield "embeddings.token_type_embeddings.weight", (2, width)
    yield "embeddings.LayerNorm.weight", (width,)
    yield "embeddings.LayerNorm.bias", (width,)
    for layer in range(layers):
        block = f"encoder.layer.{layer}"
        for name, shape in (
            ("attention.self.query", (width, width)),
            ("attention.self.key", (width, width)),
            ("attention.self.value", (width, width)),
            ("attention.output.dense", (width, width)),
            ("attention.output.LayerNorm", (width,)),
            ("intermediate.dense", (inner, width)),
            ("output.dense", (width, inner)),
            ("output.LayerNorm", (width,)),
        ):
            yield f"{block}.{name}.weight", shape
            yield f"{block}.{name}.bias", shape[:1]
    yield "pooler.dense.weight", (width, width)
    yield "pooler.dense.bias", (width,)


def _llama(
    vocabulary: int, width: int, layers: int, inner: int, key_value: int, *, tied: bool
) -> Entries:
    """A Llama-shaped decoder.

    `key_value` is the width of keys and values, `tied` leaves the output head out, as the files do.
    """
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for name, shape in (
            ("input_layernorm", (width,)),
            ("mlp.down_proj", (width, inner)),
            ("mlp.gate_proj", (inner, width)),
            ("mlp.up_proj", (inner, width)),
            ("post_attention_layernorm", (width,)),
            ("self_attn.k_proj", (key_value, width)),
            ("self_attn.o_proj", (width, width)),
            ("self_attn.q_proj", (width, width)),
            ("self_attn.v_proj", (key_value, width)),
        ):
            yield f"{block}.{name}.weight", shape
    yield "model.norm.weight", (width,)
    if not tied:
        yield "lm_head.weight", (vocabulary, width)


def _qwen_moe(
    vocabulary: int, width: int, layers: int, experts: int, inner: int, heads: tuple[int, int, int]
) -> Entries:
    """A mixture of experts as Qwen3 has it: three matrices for each expert of each layer.

    `heads` are the query heads, the key and value heads, and the width of each.
    """
    queries, key_values, head = heads
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for name, shape in (
            ("input_layernorm", (width,)),
            ("mlp.gate", (experts, width)),
            ("post_attention_layernorm", (width,)),
            ("self_attn.k_norm", (head,)),
            ("self_attn.k_proj", (key_values * head, width)),
            ("self_attn.o_proj", (width, queries * head)),
            ("self_attn.q_norm", (head,)),
            ("self_attn.q_proj", (queries * head, width)),
            ("self_attn.v_proj", (key_values * head, width)),
        ):
            yield f"{block}.{name}.weight", shape
        for expert in range(experts):
            for name in ("down_proj", "gate_proj", "up_proj"):
                shape = (width, inner) if name == "down_proj" else (inner, width)
                yield f"{block}.mlp.experts.{expert}.{name}.weight", shape
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocabulary, width)


def _bloom(vocabulary: int, width: int, layers: int) -> Entries:
    """BLOOM: fused queries, keys and values, a norm after the embeddings, and the output head tied
    to them, so it is not in the file.
    """
    yield "word_embeddings.weight", (vocabulary, width)
    yield "word_embeddings_layernorm.weight", (width,)
    yield "word_embeddings_layernorm.bias", (width,)
    for layer in range(layers):
        block = f"h.{layer}"
        for name, shape in (
            ("input_layernorm", (width,)),
            ("self_attention.query_key_value", (3 * width, width)),
            ("self_attention.dense", (width, width)),
            ("post_attention_layernorm", (width,)),
            ("mlp.dense_h_to_4h", (4 * width, width)),
            ("mlp.dense_4h_to_h", (width, 4 * width)),
        ):
            yield f"{block}.{name}.weight", shape
            yield f"{block}.{name}.bias", shape[:1]
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)


GPT2_SIZES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "warm-up-gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 64},
}
"""The models of GPT-2's class, with what their configurations say of their sizes."""


def _uniform(dtype: str, entries: Entries) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, shape) for name, shape in entries)


def _all_minilm() -> Layout:
    """sentence-transformers/all-MiniLM-L6-v2: BERT of 6 layers, with the int64 buffer
    `position_ids` that its file carries.
    """
    positions = TensorSpec("embeddings.position_ids", "int64", (1, 512))
    return Layout(
        "all-minilm-l6-v2", (positions, *_uniform("float32", _bert(30522, 384, 6, 1536, 512)))
    )


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "lora-1000": lambda: Layout("lora-1000", _uniform("float32", _lora_1000())),
    "all-minilm-l6-v2": _all_minilm,
    "gpt2": lambda: Layout("gpt2", _uniform("float32", _gpt2("gpt2"))),
    "bloom-slim": lambda: Layout(
        "bloom-slim", _uniform("float16", _bloom(31360, 1024, 3)), heads=16
    ),
    "bloom-560m": lambda: Layout(
        "bloom-560m", _uniform("float16", _bloom(250880, 1024, 24)), heads=16
    ),
    "llama-3.2-1b": lambda: Layout(
        "llama-3.2-1b",
        _uniform("bfloat16", _llama(128256, 2048, 16, 8192, 512, tied=True)),
        heads=8,
    ),
    "mistral-7b-v0.1": lambda: Layout(
        "mistral-7b-v0.1",
        _uniform("bfloat16", _llama(32000, 4096, 32, 14336, 1024, tied=False)),
        shard_bytes=10_000_000_000,
        heads=8,
    ),
    "qwen3-moe-slim": lambda: Layout(
        "qwen3-moe-slim",
        _uniform("bfloat16", _qwen_moe(151936, 64, 48, 128, 48, (32, 4, 4))),
        shard_bytes=10_000_000,
    ),
    "small-stable-diffusion": lambda: pipeline_layout("small-stable-diffusion"),
    "stable-diffusion-2.1": lambda: pipeline_layout("stable-diffusion-2.1"),
}
"""Every layout by name. All but three are published: `bloom-slim` is an eighth of bloom-560m's
layers and vocabulary, `small-stable-diffusion` a pipeline of the same classes with fewer channels,
for runs in a hurry, and `qwen3-moe-slim` has every tensor of Qwen3-30B-A3B in shards, 18,867, each
a small fraction of its size: what such a model pays for each tensor.
"""


WARM_UP = Layout(
    "warm-up",
    (
        TensorSpec("a", "float32", (4, 4)),
        TensorSpec("b", "bfloat16", (8,)),
        TensorSpec("c", "float16", (2, 2)),
        TensorSpec("d", "int64", (3,)),
    ),
)
"""The tiny checkpoint of a sample's warm-up load: one tensor of each usual dtype."""

WARM_UPS: dict[str, Callable[[], Layout]] = {
    "warm-up": lambda: WARM_UP,
    "warm-up-gpt2": lambda: Layout("warm-up-gpt2", _uniform("float32", _gpt2("warm-up-gpt2"))),
    "warm-up-stable-diffusion": lambda: pipeline_layout("warm-up-stable-diffusion"),
}
"""Every tiny checkpoint by name: a loader that makes a model needs a tiny model."""
