"""The key by which a run names a loader: `module:name`, and `:KIND` where it is no plain loader."""

from __future__ import annotations

PLAIN = "LOADERS"
_LABELS = {
    PLAIN: "",
    "MODEL_LOADERS": ", a model",
    "PART_LOADERS": ", of a part",
    "SHARE_LOADERS": ", over ranks",
    "CONVERTERS": ", to another file",
    "SCANNERS": ", a scanner",
}


def key_of(module: str, name: str, kind: str = PLAIN) -> str:
    """Return the key of a loader."""
    return f"{module}:{name}" if kind == PLAIN else f"{module}:{name}:{kind}"


def parts_of(key: str) -> tuple[str, str, str]:
    """Return (module, name, kind) of a key."""
    module, name, *kind = key.split(":")
    return module, name, kind[0] if kind else PLAIN


def label_of(key: str) -> str:
    """Return the words by which a table names the loader of a key."""
    _, name, kind = parts_of(key)
    return f"{name}{_LABELS[kind]}"
