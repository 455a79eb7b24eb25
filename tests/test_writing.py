"""Files that appear whole or not at all, and that one run writes at a time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aigciqa.errors import LockedError
from aigciqa.utils.files import locked, replacing


class TestReplacing:
    def test_the_file_is_whole_or_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.csv"
        path.write_text("old")
        with contextlib.suppress(RuntimeError), replacing(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError
        assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["scores.csv"])
        with replacing(path) as unfinished:
            unfinished.write_text("new")
        assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["scores.csv"])

    def test_two_writers_have_files_of_their_own(self, tmp_path: Path) -> None:
        with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
            assert one != other

    def test_a_link_put_there_first_is_not_written_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
        with replacing(tmp_path / "a") as unfinished:
            name = unfinished
        name.symlink_to(victim)
        with pytest.raises(FileExistsError), replacing(tmp_path / "a"):
            pass
        assert victim.read_text() == "precious"

    def test_what_a_killed_process_left_goes_when_it_is_old(self, tmp_path: Path) -> None:
        with replacing(tmp_path / "elsewhere") as unfinished:
            name = unfinished.name
        folder = tmp_path / "folder"
        folder.mkdir()
        for age, left in ((0, folder / name), (7200, folder / name.replace(".part", "0.part"))):
            left.touch()
            os.utime(left, (time.time() - age,) * 2)
        with replacing(folder / "a"):
            pass
        assert sorted(os.listdir(folder)) == sorted([name, "a"])


class TestLocked:
    def test_the_second_is_refused_until_the_first_is_done(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "scores.csv"
        with locked(path):
            with pytest.raises(LockedError, match=r"scores\.csv is being written by another run: wait"), locked(path):
                pass
            with locked(path.with_name("other.csv")):
                pass
        with locked(path):
            pass
        assert os.listdir(path.parent) == []

    def test_a_killed_process_keeps_no_lock(self, tmp_path: Path) -> None:
        code = f"import os\nfrom aigciqa.utils.files import locked\nwith locked({str(tmp_path / 'a')!r}): os._exit(9)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 9
        with locked(tmp_path / "a"):
            pass
