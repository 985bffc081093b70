"""What a killed run left mounted or limited: cleared away by whatever command comes next."""

from __future__ import annotations

from harness.machine import memory_group, shape_mount, throttle


def clear_left_over() -> str | None:
    """Remove what killed runs left mounted or limited, and return a sentence on it, None where
    nothing was.
    """
    left = (
        shape_mount.clear_left_over(),
        throttle.clear_left_over(),
        memory_group.clear_left_over(),
    )
    return "; ".join(filter(None, left)) or None
