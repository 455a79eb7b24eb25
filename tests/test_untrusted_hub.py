"""A Hub that means harm: what it says never becomes a path, a token's way or an endless file. And a cache that can't be
written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import aigciqa
from aigciqa import errors
from aigciqa.checkpoints.repo import Repo
from aigciqa.cli.publish import main as publish_command
from tests.conftest import Watch, draw_tensor, untrained
from tests.hub_server import TOKEN, Fault, Files, Hub, serve

IMAGES = draw_tensor(1, 80, 80)
pytestmark = pytest.mark.usefixtures("tiny", "hurry")


@pytest.fixture
def checkpoint(tiny: Path) -> Files:
    return {path.name: path.read_bytes() for path in tiny.iterdir()}


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., aigciqa.Metric]:
    """`create_metric` with a cache of the test's own."""

    def call(weights: str = "org/checkpoint", **options: Any) -> aigciqa.Metric:
        cache = tmp_path / "deep" / "cache"
        return aigciqa.create_metric("nr-tiny", **{"weights": weights, "cache_dir": cache, **options})

    return call


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, bytes]]:
    """What lies around the cache: names and contents. Relative paths lead there, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "deep").mkdir()
    for name in (".bashrc", "config.json"):
        (tmp_path / "deep" / name).write_bytes(b"mine")

    def files() -> dict[str, bytes]:
        found = (path for path in tmp_path.rglob("*") if "cache" not in path.relative_to(tmp_path).parts)
        return {str(path): path.read_bytes() for path in found if path.is_file()}

    return files


PATHS = ("{tmp}/victim", "../../../victim", "../../../../.bashrc", "..", ".", "a/b", r"..\..\victim", r"C:\victim")


@pytest.mark.parametrize("only", ["HEAD config.json", "HEAD model.safetensors"])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("value", ["{tmp}/victim", "../../../../victim"])
def test_a_path_in_an_answer_is_refused(
    hub: Hub,
    checkpoint: Files,
    fetch: Callable[..., aigciqa.Metric],
    around: Callable[[], dict[str, bytes]],
    tmp_path: Path,
    only: str,
    header: str,
    value: str,
) -> None:
    hub.add("org/checkpoint", checkpoint)
    before = around()
    value = value.format(tmp=tmp_path)
    hub.fault = Fault(headers={header: value if header == "X-Repo-Commit" else f'"{value}"'}, only=only)
    with pytest.raises(errors.UntrustedError) as caught:
        fetch()
    assert around() == before
    message = str(caught.value)
    for part in ("was not trusted", header.removeprefix("X-Linked-").replace("Etag", "ETag"), repr(value)):
        assert part in message
    hub.fault = Fault()
    fetch()


@pytest.mark.parametrize("value", PATHS)
@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_server_that_turns_bad_between_two_answers_writes_nothing_elsewhere(
    hub: Hub, around: Callable[[], dict[str, bytes]], tmp_path: Path, header: str, value: str, fresh: bool
) -> None:
    """The first answer is fine; the next, which brings the file or is an error, is not."""
    hub.add("org/checkpoint", {"config.json": b"theirs"})
    before = around()
    value = value.format(tmp=tmp_path)
    headers = {header: value if header == "X-Repo-Commit" else f'"{value}"'}
    repo = Repo("org/checkpoint", cache_dir=tmp_path / "deep" / "cache")
    hub.fault = Fault(headers=headers, only="GET ")
    path = repo.file("config.json", largest=100, fresh=fresh)
    assert path.read_bytes() == b"theirs"
    assert (tmp_path / "deep" / "cache") in path.resolve().parents
    hub.fault = Fault(headers=headers, status=404, code="EntryNotFound")
    with pytest.raises(errors.FileNotInRepoError):
        repo.file("config.json", largest=100, fresh=True)
    hub.fault = Fault(headers=headers)
    with pytest.raises(errors.UntrustedError):
        repo.file("config.json", largest=100, fresh=True)
    assert around() == before


@pytest.mark.parametrize(
    ("headers", "trusted"),
    [
        ({"ETag": '"0123456789abcdef0123456789abcdef01234567"'}, True),
        ({"ETag": 'W/"0123456789abcdef0123456789abcdef"'}, True),
        ({"ETag": '"d41d8cd98f00b204e9800998ecf8427e-38"'}, True),
        ({"ETag": '"-CKicn4fknoYDEAE="'}, True),
        ({"ETag": '"0x8D4BCC2E4835CD0"'}, True),
        ({"ETag": '"{SHA1{da39a3ee5e6b4b0d3255bfef95601890afd80709}}"'}, True),
        ({"ETag": '""'}, False),
        ({"ETag": '"a:b"'}, False),
        ({"ETag": '"' + "a" * 129 + '"'}, False),
        ({"ETag": "bad etag"}, False),
        ({"ETag": "caf\xe9"}, False),
        ({"X-Repo-Commit": ""}, False),
        ({"X-Repo-Commit": "main"}, False),
        ({"X-Repo-Commit": "A" * 40}, False),
        ({"X-Repo-Commit": "0" * 41}, False),
    ],
)
def test_what_is_taken_for_an_etag_and_a_commit(
    hub: Hub, tmp_path: Path, headers: dict[str, str], trusted: bool
) -> None:
    hub.add("org/checkpoint", {"config.json": b"theirs"})
    hub.fault = Fault(headers=headers)
    repo = Repo("org/checkpoint", cache_dir=tmp_path / "cache")
    if trusted:
        assert repo.file("config.json", largest=100).read_bytes() == b"theirs"
    else:
        with pytest.raises(errors.UntrustedError, match="Nothing was written"):
            repo.file("config.json", largest=100)
        assert not (tmp_path / "cache").exists()


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/checkpoint", {"config.json": b"theirs"})
    hub.fault = Fault(headers={"X-Repo-Commit": "0" * 40})
    with pytest.raises(errors.UntrustedError, match=f"expected '?{commit}"):
        Repo("org/checkpoint", commit, cache_dir=tmp_path).file("config.json", largest=100)


@pytest.mark.parametrize(
    "revision",
    ["{tmp}/victim", "../../../victim", "a/../../x", "v1..2", "a//b", "a/", r"..\x", r"C:\x", "a b", "\u0661"],
)
def test_a_revision_that_is_a_path_is_refused_before_anything_is_asked(
    hub: Hub,
    checkpoint: Files,
    fetch: Callable[..., aigciqa.Metric],
    around: Callable[[], dict[str, bytes]],
    tmp_path: Path,
    tiny: Path,
    revision: str,
) -> None:
    hub.add("org/checkpoint", checkpoint)
    before = around()
    revision = revision.format(tmp=tmp_path)
    with pytest.raises(errors.RevisionNotFoundError, match="that is not the name of a branch, tag"):
        fetch(f"org/checkpoint@{revision}")
    done = CliRunner().invoke(publish_command, [str(tiny), "org/other", "--revision", revision])
    assert (done.exit_code, "is not the name of a branch" in done.output) == (1, True)
    assert around() == before
    assert not hub.requests


def test_names_of_branches_that_are_taken(hub: Hub, tmp_path: Path) -> None:
    for branch in ("v1.2-rc_3", "refs/pr/1", "feature/a.b"):
        hub.add("org/checkpoint", {"config.json": branch.encode()}, branch)
        path = Repo("org/checkpoint", branch, cache_dir=tmp_path).file("config.json", largest=100)
        assert path.read_bytes() == branch.encode()


@pytest.mark.parametrize("method", ["HEAD ", "GET "])
def test_the_token_goes_to_no_other_host(hub: Hub, tmp_path: Path, method: str) -> None:
    files = {"config.json": b"theirs"}
    hub.add("org/checkpoint", files)
    with serve() as (elsewhere, other):
        other.add("org/checkpoint", files)
        for number, address in enumerate((elsewhere, elsewhere.replace("127.0.0.1", "localhost"))):
            hub.fault = Fault(redirect=address + "{path}", only=method)
            path = Repo("org/checkpoint", cache_dir=tmp_path / str(number)).file("config.json", largest=100)
            assert path.read_bytes() == b"theirs"
        assert other.requests == ["GET /org/checkpoint/resolve/main/config.json"] * 2
        assert other.tokens == {""}
    assert TOKEN in hub.tokens


@pytest.mark.parametrize("address", ["file://{tmp}/victim", "ftp://127.0.0.1/x", "data:,x", "http://[::1/x", "//["])
def test_a_redirect_away_from_the_web_is_refused(
    hub: Hub, around: Callable[[], dict[str, bytes]], tmp_path: Path, address: str
) -> None:
    hub.add("org/checkpoint", {"config.json": b"theirs"})
    before = around()
    for method in ("HEAD ", "GET "):
        hub.fault = Fault(redirect=address.format(tmp=tmp_path), only=method)
        with pytest.raises(errors.HubError, match="could not be loaded from"):
            Repo("org/checkpoint", cache_dir=tmp_path / "cache").file("config.json", largest=100)
    assert around() == before
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_body_without_end_is_left_early(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/checkpoint", {"config.json": b"{"})
    hub.fault = Fault(endless=True)
    with pytest.raises(errors.CheckpointError, match="expected at most 1,048,576"):
        Repo("org/checkpoint", cache_dir=tmp_path).file("config.json", largest=1 << 20)
    assert hub.sent < 100 << 20
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


# A cache that can't be written


def refuse_writing(watch: Watch, number: int, below: Path) -> None:
    """As a file system that is full or read-only does; permissions would not stop a test that root runs."""

    def refuse(path: Any, *_: Any, **__: Any) -> None:
        if not os.path.isdir(path) and below in Path(path).parents:
            raise OSError(number, os.strerror(number), path)

    watch(os, "open", lambda path, flags, *_, **__: flags & os.O_CREAT and refuse(path))
    watch(os, "mkdir", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_cache_that_cannot_be_written_serves_what_it_has(
    hub: Hub,
    checkpoint: Files,
    fetch: Callable[..., aigciqa.Metric],
    tmp_path: Path,
    watch: Watch,
    number: int,
) -> None:
    hub.add("org/checkpoint", checkpoint)
    expected = fetch()(IMAGES)
    hub.add(
        "org/checkpoint",
        {**checkpoint, "config.json": checkpoint["config.json"].replace(b'"format": 1', b'"format":  1')},
    )
    refuse_writing(watch, number, tmp_path / "deep")
    with pytest.warns(RuntimeWarning, match="the cache can't be used: .*; the cached copy is used, which may be old"):
        assert torch.equal(fetch()(IMAGES), expected)
    with pytest.raises(errors.CacheError, match=os.strerror(number)):
        fetch(cache_dir=tmp_path / "deep" / "new")


def test_a_cache_below_a_file_is_an_error_that_says_so(
    hub: Hub, fetch: Callable[..., aigciqa.Metric], checkpoint: Files, tmp_path: Path
) -> None:
    hub.add("org/checkpoint", checkpoint)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.CacheError, match=r"the cache can't be used: .*file"):
        fetch(cache_dir=tmp_path / "file" / "cache")


def test_half_of_a_new_commit_does_not_take_the_place_of_a_whole_one(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new commit's config arrives, its weights don't: the older checkpoint is used, also without network later."""
    hub.add("org/checkpoint", checkpoint)
    expected = fetch()(IMAGES)
    torch.manual_seed(11)
    aigciqa.create_metric("nr-tiny", weights=None).save_pretrained(tmp_path / "new")
    new = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    hub.add("org/checkpoint", new)
    hub.fault = Fault(status=503, only="GET model.safetensors")
    with pytest.warns(RuntimeWarning, match="answered 503.*; the cached copy is used"):
        assert torch.equal(fetch()(IMAGES), expected)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(fetch()(IMAGES), expected)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.fault = Fault()
    assert not torch.equal(fetch()(IMAGES), expected)


def test_a_cache_without_links_works(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric], tmp_path: Path, watch: Watch
) -> None:
    watch(os, "symlink", OSError(errno.EPERM, "A required privilege is not held by the client"))
    commit = hub.add("org/checkpoint", checkpoint)
    expected = untrained("nr-tiny")(IMAGES)
    assert torch.equal(fetch()(IMAGES), expected)
    hub.requests.clear()
    fetch(f"org/checkpoint@{commit}")
    assert not hub.requests
    (weights,) = (tmp_path / "deep" / "cache").rglob("model.safetensors")
    assert not weights.is_symlink()
    weights.write_bytes(checkpoint["model.safetensors"][:-9])
    assert torch.equal(fetch(f"org/checkpoint@{commit}")(IMAGES), expected)


def test_a_home_folder_is_written_with_a_tilde(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    hub.add("org/checkpoint", checkpoint)
    metric = fetch(cache_dir="~/cache")
    assert (tmp_path / "home" / "cache" / "models--org--checkpoint").is_dir()
    metric.save_pretrained("~/checkpoint")
    assert torch.equal(fetch("~/checkpoint")(IMAGES), metric(IMAGES))
    assert not (tmp_path / "~").exists()
    with pytest.raises(ValueError, match="no such folder"):
        fetch("~nobody-has-this-name/checkpoint")
