"""Errors written for the person who meets them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

USAGE_EXIT = 2


class WeighbridgeError(Exception):
    """Something asked for cannot be done.

    The message says what was asked, what was found and what to do.
    """


def unknown_name(kind: str, name: str, names: Iterable[str]) -> WeighbridgeError:
    """Return the error for a name that is not one of `names`, listing the names there are, on one
    line.
    """
    return WeighbridgeError(f"unknown {kind} {name!r}; there are: {', '.join(names)}")


@contextmanager
def one_line_errors(subject: str) -> Iterator[None]:
    """Turn a full disk, a missing permission and their like into a `WeighbridgeError` about
    `subject`.
    """
    try:
        yield
    except OSError as error:
        raise WeighbridgeError(
            f"{subject}: {error.strerror or error} ({error.filename or 'while writing'}); nothing"
            " that looks finished is left"
        ) from None
