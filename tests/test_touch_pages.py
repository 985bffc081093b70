"""The page touch: every page of every tensor is read, whatever loader brought it and however it
lies.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest
import torch

from harness.machine import page_cache
from harness.machine.storage import storage
from harness.workers.touch_pages import touch

PAGE = mmap.PAGESIZE
PAGES = 256


def _aligned(pages: int) -> torch.Tensor:
    """Return the bytes of that many whole pages."""
    return torch.frombuffer(mmap.mmap(-1, pages * PAGE), dtype=torch.uint8)


@pytest.fixture
def evicted(tmp_path: Path) -> Path:
    """A file of `PAGES` pages none of which is resident."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the page cache is set and proved by Linux's own calls")
    if storage(tmp_path).file_system in ("tmpfs", "ramfs"):
        pytest.skip("the temporary folder lies in memory; name one on a disk with --basetemp")
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(PAGES * PAGE))
    assert page_cache.evict([path]).cached == 0
    return path


def _mapped(path: Path) -> torch.Tensor:
    """Return the file as a tensor whose pages come one by one, each when it is touched: readahead
    would hide one that is not.
    """

    tensor = torch.from_file(str(path), shared=True, size=PAGES * PAGE, dtype=torch.uint8)
    madv_random = 1
    assert (
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(PAGES * PAGE), madv_random
        )
        == 0
    )
    return tensor


@pytest.mark.parametrize(
    "how", ["whole", "in parts", "as floats", "strided", "one column", "transposed"]
)
def test_after_the_touch_every_page_of_a_mapped_file_is_there(evicted: Path, how: str) -> None:
    mapped = _mapped(evicted)
    tensors = {
        "whole": [mapped],
        "in parts": list(mapped.split(PAGE * 3 + 5)),
        "as floats": [mapped.view(torch.float32)],
        "strided": [mapped[::2]],
        "one column": [mapped.view(PAGES, PAGE)[:, :1]],
        "transposed": [mapped.view(PAGES, PAGE).t()],
    }[how]
    assert page_cache.residency([evicted]).cached == 0, "it was resident before it was touched"
    touch(tensors)
    assert page_cache.residency([evicted]).cached == PAGES


def test_the_touch_stays_within_its_tensors(evicted: Path) -> None:
    mapped = _mapped(evicted)
    touch([mapped[10 * PAGE : 20 * PAGE], mapped[30 * PAGE - 1 : 30 * PAGE + 1]])
    assert page_cache.residency([evicted]).cached == 12


@pytest.mark.parametrize(
    ("start", "stop", "second_pages"),
    [
        (0, 4 * PAGE, 4),
        (1, 4 * PAGE, 3),
        (0, 4 * PAGE - 1, 4),
        (PAGE - 1, PAGE + 1, 1),
        (100, 200, 0),
        (0, 1, 1),
        (PAGE, PAGE + 1, 1),
    ],
)
def test_the_touch_reads_the_first_byte_of_each_page(
    start: int, stop: int, second_pages: int
) -> None:
    """Besides the tensor's first and last byte, one for each page that begins within it."""
    assert touch([_aligned(4)[start:stop]]) == second_pages + 2


def test_the_touch_covers_what_a_tensor_spans() -> None:
    pages = _aligned(4)
    assert touch([pages[::2]]) == 4 + 2
    assert touch([pages.view(4, PAGE).t()]) == 4 + 2
    assert touch([pages.view(4, PAGE)[:, :1]]) == 4 + 2
    assert touch([pages.view(4, PAGE)[1:3, 8:16]]) == 1 + 2
    assert touch([pages[:1].expand(10 * PAGE)]) == 1 + 2
    assert touch([pages.view(torch.float64)[::512]]) == 4 + 2


def test_the_touch_steps_over_tensors_without_content() -> None:
    assert touch([]) == 0
    assert (
        touch(
            [
                torch.empty(0),
                torch.empty(0, 3),
                _aligned(1)[:0],
                torch.empty(3, 4)[:, :0],
                torch.empty(4, 4).t()[:0],
            ]
        )
        == 0
    )
    assert touch([torch.empty(0), _aligned(2), torch.empty(0)]) == 2 + 2


def test_every_tensor_is_walked() -> None:
    pages = _aligned(6)
    assert (
        touch(
            {
                "a": pages[: 2 * PAGE],
                "b": pages[2 * PAGE : 5 * PAGE],
                "c": pages[5 * PAGE :],
            }.values()
        )
        == 4 + 5 + 3
    )
