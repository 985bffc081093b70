"""Pickles under the name of a safe format, and pickles that switch a scanner off before they run
what they carry.

`torch.load` chooses what reads a file by its name since 2.13.
"""

from __future__ import annotations

from typing import Any

from harness.hostile import Family
from harness.hostile.archives import torch_legacy, torch_zip
from harness.hostile.disguises import PAYLOAD
from harness.hostile.opcodes import PROTO_4, Global, pickled
from harness.records.trials import Harm

misnamed = Family("misnamed", "pickle", Harm.CODE)
switched = Family("scanner-off", "pickle", Harm.CODE)

misnamed.table(
    "{}.safetensors",
    (
        ("bare-pickle", "a bare pickle with the payload is called .safetensors", pickled(PAYLOAD)),
        ("torch-zip", "a torch file with the payload is called .safetensors", torch_zip(PAYLOAD)),
        (
            "torch-legacy",
            "a legacy torch file with the payload is called .safetensors",
            torch_legacy(PAYLOAD),
        ),
    ),
    bytes,
)

_OFF: dict[str, Any] = {
    "fickling-hook": Global("fickling.hook", "deactivate_safe_ml_environment")(),
    "picklescan-list": Global("picklescan.scanner", "_unsafe_globals.clear")(),
    "modelscan-settings": Global("modelscan.settings", "DEFAULT_SETTINGS.clear")(),
}
switched.table(
    "{}-off.pkl",
    (
        (name, f"the pickle disables {name.partition('-')[0]} first, then runs its payload", off)
        for name, off in _OFF.items()
    ),
    lambda off: pickled([off, PAYLOAD], PROTO_4),  # an attribute of a module takes protocol 4
)
