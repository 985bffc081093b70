"""Where checkpoints are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_store() -> Path:
    """Return where checkpoints are kept unless the person says otherwise: `WEIGHBRIDGE_STORE`, or a
    folder of the user's cache.
    """
    if chosen := os.environ.get("WEIGHBRIDGE_STORE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/weighbridge"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighbridge"
