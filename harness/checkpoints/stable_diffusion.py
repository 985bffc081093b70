"""Stable Diffusion: the layout of a pipeline's weights, from its components' configurations.

The large one has the published configurations of Stable Diffusion 2.1; its text encoder keeps the
published names, `text_model.…`. The others have the same classes and fewer channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.checkpoints.layout import Entries, Layout, TensorSpec

COMPONENTS = ("unet", "text_encoder", "vae")
"""The components that hold weights; a tensor's name begins with its component's."""
LAYERS = 2
"""Residual blocks of each block."""
LATENTS = 4
"""Channels of a latent image."""
CROSS = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
"""The denoiser's blocks on the way down; the way up has their counterparts in reverse."""


@dataclass(frozen=True)
class Shape:
    """What tells one pipeline of these classes from another."""

    unet: tuple[int, ...]
    """Channels of the denoiser's blocks."""
    vae: tuple[int, ...]
    """Channels of the autoencoder's blocks."""
    text_width: int
    text_inner: int
    text_layers: int
    vocabulary: int
    head: int = 64
    """Channels of one attention head."""
    groups: int = 32
    """Groups of a group norm: fewer than the channels, which it must be where an image is one
    pixel.
    """


SHAPES = {
    "stable-diffusion-2.1": Shape(
        (320, 640, 1280, 1280), (128, 256, 512, 512), 1024, 4096, 23, 49408
    ),
    "small-stable-diffusion": Shape(
        (64, 128, 256, 256), (32, 64, 128, 128), 256, 1024, 6, 49408, head=32
    ),
    "warm-up-stable-diffusion": Shape(
        (32, 32, 32, 32), (32, 32, 32, 32), 32, 64, 1, 1024, head=32, groups=16
    ),
}
"""Every pipeline by its layout's name."""


def pipeline_layout(name: str) -> Layout:
    """Return the layout of a pipeline: every component's tensors, float16."""
    shape = SHAPES[name]
    parts = {"unet": _unet(shape), "text_encoder": _text_encoder(shape), "vae": _autoencoder(shape)}
    specs = (
        TensorSpec(f"{part}.{tensor}", "float16", size)
        for part, tensors in parts.items()
        for tensor, size in tensors
    )
    return Layout(name, tuple(specs), pipeline=True)


def _unet(shape: Shape) -> Entries:
    """Yield the denoiser's tensors (diffusers, `UNet2DConditionModel`)."""
    channels, step = shape.unet, 4 * shape.unet[0]
    yield from _convolution("conv_in", LATENTS, channels[0])
    yield from _linear("time_embedding.linear_1", channels[0], step)
    yield from _linear("time_embedding.linear_2", step, step)
    for number, width in enumerate(channels):
        block = f"down_blocks.{number}"
        for layer in range(LAYERS):
            yield from _resnet(
                f"{block}.resnets.{layer}",
                channels[max(number - 1, 0)] if layer == 0 else width,
                width,
                step,
            )
            if CROSS[number] != "DownBlock2D":
                yield from _transformer(f"{block}.attentions.{layer}", width, shape.text_width)
        if number + 1 < len(channels):
            yield from _convolution(f"{block}.downsamplers.0.conv", width, width)
    for layer in range(2):
        yield from _resnet(f"mid_block.resnets.{layer}", channels[-1], channels[-1], step)
    yield from _transformer("mid_block.attentions.0", channels[-1], shape.text_width)
    upwards = channels[::-1]
    for number, width in enumerate(upwards):
        block = f"up_blocks.{number}"
        for layer in range(LAYERS + 1):
            before = upwards[max(number - 1, 0)] if layer == 0 else width
            across = upwards[min(number + 1, len(upwards) - 1)] if layer == LAYERS else width
            yield from _resnet(f"{block}.resnets.{layer}", before + across, width, step)
            if CROSS[-1 - number] != "DownBlock2D":
                yield from _transformer(f"{block}.attentions.{layer}", width, shape.text_width)
        if number + 1 < len(upwards):
            yield from _convolution(f"{block}.upsamplers.0.conv", width, width)
    yield from _norm("conv_norm_out", channels[0])
    yield from _convolution("conv_out", channels[0], LATENTS)


def _autoencoder(shape: Shape) -> Entries:
    """Yield the autoencoder's tensors (diffusers, `AutoencoderKL`)."""
    channels, upwards = shape.vae, shape.vae[::-1]
    yield from _convolution("encoder.conv_in", 3, channels[0])
    for number, width in enumerate(channels):
        block = f"encoder.down_blocks.{number}"
        for layer in range(LAYERS):
            yield from _resnet(
                f"{block}.resnets.{layer}",
                channels[max(number - 1, 0)] if layer == 0 else width,
                width,
            )
        if number + 1 < len(channels):
            yield from _convolution(f"{block}.downsamplers.0.conv", width, width)
    yield from _middle("encoder.mid_block", channels[-1])
    yield from _norm("encoder.conv_norm_out", channels[-1])
    yield from _convolution("encoder.conv_out", channels[-1], 2 * LATENTS)
    yield from _convolution("decoder.conv_in", LATENTS, channels[-1])
    for number, width in enumerate(upwards):
        block = f"decoder.up_blocks.{number}"
        for layer in range(LAYERS + 1):
            yield from _resnet(
                f"{block}.resnets.{layer}",
                upwards[max(number - 1, 0)] if layer == 0 else width,
                width,
            )
        if number + 1 < len(upwards):
            yield from _convolution(f"{block}.upsamplers.0.conv", width, width)
    yield from _middle("decoder.mid_block", channels[-1])
    yield from _norm("decoder.conv_norm_out", channels[0])
    yield from _convolution("decoder.conv_out", channels[0], 3)
    yield from _convolution("quant_conv", 2 * LATENTS, 2 * LATENTS, 1)
    yield from _convolution("post_quant_conv", LATENTS, LATENTS, 1)


def _text_encoder(shape: Shape) -> Entries:
    """Yield the text encoder's tensors (transformers, `CLIPTextModel`) under their published
    names.
    """
    width = shape.text_width
    yield "text_model.embeddings.token_embedding.weight", (shape.vocabulary, width)
    yield "text_model.embeddings.position_embedding.weight", (77, width)
    for layer in range(shape.text_layers):
        block = f"text_model.encoder.layers.{layer}"
        yield from _norm(f"{block}.layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{block}.self_attn.{name}", width, width)
        yield from _norm(f"{block}.layer_norm2", width)
        yield from _linear(f"{block}.mlp.fc1", width, shape.text_inner)
        yield from _linear(f"{block}.mlp.fc2", shape.text_inner, width)
    yield from _norm("text_model.final_layer_norm", width)


def _resnet(name: str, before: int, width: int, step: int | None = None) -> Entries:
    yield from _norm(f"{name}.norm1", before)
    yield from _convolution(f"{name}.conv1", before, width)
    if step is not None:
        yield from _linear(f"{name}.time_emb_proj", step, width)
    yield from _norm(f"{name}.norm2", width)
    yield from _convolution(f"{name}.conv2", width, width)
    if before != width:
        yield from _convolution(f"{name}.conv_shortcut", before, width, 1)


def _transformer(name: str, width: int, context: int) -> Entries:
    block = f"{name}.transformer_blocks.0"
    yield from _norm(f"{name}.norm", width)
    yield from _linear(f"{name}.proj_in", width, width)
    for number, of in ((1, width), (2, context)):
        yield f"{block}.attn{number}.to_q.weight", (width, width)
        yield f"{block}.attn{number}.to_k.weight", (width, of)
        yield f"{block}.attn{number}.to_v.weight", (width, of)
        yield from _linear(f"{block}.attn{number}.to_out.0", width, width)
    yield from _linear(f"{block}.ff.net.0.proj", width, 8 * width)
    yield from _linear(f"{block}.ff.net.2", 4 * width, width)
    for number in (1, 2, 3):
        yield from _norm(f"{block}.norm{number}", width)
    yield from _linear(f"{name}.proj_out", width, width)


def _middle(name: str, width: int) -> Entries:
    yield from _norm(f"{name}.attentions.0.group_norm", width)
    for linear in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _linear(f"{name}.attentions.0.{linear}", width, width)
    for layer in range(2):
        yield from _resnet(f"{name}.resnets.{layer}", width, width)


def _convolution(name: str, before: int, width: int, kernel: int = 3) -> Entries:
    yield f"{name}.weight", (width, before, kernel, kernel)
    yield f"{name}.bias", (width,)


def _linear(name: str, before: int, width: int) -> Entries:
    yield f"{name}.weight", (width, before)
    yield f"{name}.bias", (width,)


def _norm(name: str, width: int) -> Entries:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
