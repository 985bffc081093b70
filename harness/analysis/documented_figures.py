"""The figures of the page under test (Diffusers, *Load safetensors*), each in one place."""

from __future__ import annotations

from harness.scenarios import FULL_LOAD, SCENARIOS

PICKLE, SAFETENSORS = SCENARIOS[FULL_LOAD].pair.compared, SCENARIOS[FULL_LOAD].pair.reference

CLAIMED_S = {PICKLE: 172.7537e-3, SAFETENSORS: 3.4873e-3}
"""Seconds for 500 MB of weights on the CPU, by loader."""
CLAIMED_RATIO = CLAIMED_S[PICKLE] / CLAIMED_S[SAFETENSORS]
CLAIMED_BYTES = 500_000_000
CLAIM_ALIKE = 0.25
"""A checkpoint within this share of the claimed size is compared with the claim."""

PIPELINE_BIN_S, PIPELINE_SAFETENSORS_S = 2.663379, 2.033658
"""Seconds for Stable Diffusion 2.1, by `.bin` and by safetensors."""
PIPELINE_RATIO = PIPELINE_BIN_S / PIPELINE_SAFETENSORS_S

BLOOM_PICKLE_S, BLOOM_SAFETENSORS_S = 600.0, 45.0
"""Seconds for BLOOM on 8 GPUs, from PyTorch weights and by safetensors slices."""
