"""What is asked of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aigciqa
from aigciqa.utils import hardware
from tests.conftest import untrained


@pytest.fixture
def on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """A Linux that has huge pages for those that ask; the flags of this process's memory: it did not ask."""
    state = tmp_path / "enabled"
    state.write_text("always [madvise] never\n")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(hardware, "_HUGE_PAGES", state)
    flags: set[str] = set()
    monkeypatch.setattr(hardware, "_flags", lambda address: flags)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    hardware.check_huge_pages.cache_clear()
    yield flags
    hardware.check_huge_pages.cache_clear()


@pytest.mark.parametrize("where", ["asked", "always", "declined", "no such kernel"])
def test_nothing_is_said_where_huge_pages_are_or_are_not_wanted(
    where: str, on_request: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "asked":
        on_request.add("hg")
    if where == "always":
        hardware._HUGE_PAGES.write_text("[always] madvise never\n")
    if where == "declined":
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    if where == "no such kernel":
        hardware._HUGE_PAGES.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hardware.check_huge_pages()


def test_scoring_after_a_first_tensor_that_did_not_ask_says_so_once(
    on_request: set[str], write_images: Callable[..., list[str]]
) -> None:
    with pytest.warns(UserWarning, match="import aigciqa first, or start Python with THP_MEM_ALLOC_ENABLE=1"):
        list(aigciqa.score_files(write_images("images", "a.png"), metric=untrained("nr-resnet18")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hardware.check_huge_pages()


@pytest.mark.parametrize("given", [None, "0"])
def test_importing_asks_for_huge_pages_unless_they_are_declined(given: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    if given is not None:
        environment["THP_MEM_ALLOC_ENABLE"] = given
    code = "import os, aigciqa; print(os.environ.get('THP_MEM_ALLOC_ENABLE'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (given or ("1" if sys.platform == "linux" else "None"))
