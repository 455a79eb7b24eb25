"""A file system without locks is told of, and its table is written all the same."""

from __future__ import annotations

import errno
from pathlib import Path

import filelock
import pytest

from aigciqa.utils.files import locked
from tests.conftest import Watch


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOTSUP, "not supported"), OSError(errno.ENOLCK, "no locks"), NotImplementedError("flock")]
)
def test_a_file_system_without_locks(error: Exception, tmp_path: Path, watch: Watch) -> None:
    watch(filelock.FileLock, "acquire", error)
    with (
        pytest.warns(RuntimeWarning, match="without locks: see to it that no other run writes t.csv"),
        locked(tmp_path / "t.csv"),
    ):
        (tmp_path / "t.csv").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_other_errors_stay_errors(tmp_path: Path, watch: Watch) -> None:
    watch(filelock.FileLock, "acquire", PermissionError(errno.EACCES, "no right"))
    with pytest.raises(PermissionError), locked(tmp_path / "t.csv"):
        pass
