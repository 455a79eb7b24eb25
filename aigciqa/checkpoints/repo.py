"""Repos of the Hugging Face Hub as sources of files, and what goes wrong there, in words.

huggingface_hub does the transfers and the tokens; this module decides what is asked for. Files are kept in
huggingface_hub's cache, in its layout, but put there here: its own `hf_hub_download` makes paths of what the server
says. The endpoint (`HF_ENDPOINT`) and offline mode (`HF_HUB_OFFLINE`) are read at every call.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from aigciqa import __version__, errors
from aigciqa.utils.files import replacing, write_file

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

LIBRARY: Mapping[str, Any] = {"library_name": "aigciqa", "library_version": __version__}
REVISION = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: What may be a file's name everywhere: printable ASCII but for what Windows reserves.
_ETAG = re.compile(r"(?!\.)(?:(?![<>:\"/\\|?*])[!-~]){1,128}")
_TOKEN = "`hf auth login`, or HF_TOKEN"
_TRUE = ("1", "ON", "YES", "TRUE")
#: A server that is busy is asked again after so many seconds, as huggingface_hub does.
_PAUSES = (1, 2, 4, 8)
_BUSY = (408, 429, 500, 502, 503, 504)
#: A full disk, and one that can't be written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

PathName: TypeAlias = "str | os.PathLike[str]"
T = TypeVar("T")


def or_cached(fetch: Callable[[bool], T], cache_only: bool) -> T:
    """What `fetch(cache_only)` returns; where the Hub or the disk fails, what `fetch(True)` finds, with a warning."""
    try:
        return fetch(cache_only)
    except (errors.UnreachableError, errors.ServerError, errors.CacheError) as error:
        try:
            found = fetch(True)
        except errors.WeightsError:
            raise error from None
        reason = str(error).partition("\n")[0]
        warnings.warn(f"{reason}; the cached copy is used, which may be old", RuntimeWarning, stacklevel=3)
        return found


@dataclass
class Repo:
    """A repo at a revision (a branch, tag or commit), as a source of files.

    A file of a pinned commit that is in the cache costs no request, any other cached file one light request (HEAD).
    """

    repo_id: str
    revision: str = "main"
    cache_dir: PathName | None = None
    local_files_only: bool = False
    #: What an error message begins and ends with.
    known: str = ""
    ways_out: str = ""

    def __post_init__(self) -> None:
        if not REVISION.fullmatch(self.revision):
            raise self._error(errors.RevisionNotFoundError, "that is not the name of a branch, tag or commit")

    def __str__(self) -> str:
        return repr(self.repo_id if self.revision == "main" else f"{self.repo_id}@{self.revision}")

    def file(self, name: str, *, largest: int, fresh: bool = False) -> Path:
        """Path of a file, in a folder named as the commit; downloaded unless the cache has it; with `fresh`, even then.

        Raises a kind of HubError, or CheckpointError for one of more than `largest` bytes.
        """
        cached = self._cached(name)
        offline = self.local_files_only or _offline()
        if cached is not None and not fresh and (offline or _COMMIT.fullmatch(self.revision)):
            return cached
        if offline:
            switch = "HF_HUB_OFFLINE" if _offline() else "local_files_only"
            reason = f"{name} is not in the cache, and downloads are off ({switch})"
            raise self._error(errors.OfflineError, reason)
        for pause in _PAUSES if cached is None else ():
            try:
                return self._fetched(name, largest, fresh)
            except errors.ServerError as error:
                if _status(error.__cause__) not in _BUSY:
                    raise
            time.sleep(pause)
        return self._fetched(name, largest, fresh)

    def metadata(self, name: str) -> HfFileMetadata:
        """What the endpoint says of a file. Commit and etag are safe as parts of a path. One light request."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        with translated(self._error):
            url = hf_hub_url(self.repo_id, name, revision=self.revision, endpoint=endpoint())
            found = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **LIBRARY)
            if not _COMMIT.fullmatch(found.commit_hash or ""):
                raise self._untrusted(name, "X-Repo-Commit", found.commit_hash, "40 hexadecimal digits")
            if _COMMIT.fullmatch(self.revision) and found.commit_hash != self.revision:
                raise self._untrusted(name, "X-Repo-Commit", found.commit_hash, self.revision)
            if not _ETAG.fullmatch(found.etag or ""):
                raise self._untrusted(name, "ETag", found.etag, "a hash, or a word that can be a file's name")
            if urllib.parse.urlsplit(found.location).scheme not in ("http", "https"):
                raise self._untrusted(name, "Location", found.location, "an address of http or https")
            return found

    def remember(self, commit: str) -> None:
        """Note in the cache which commit the revision is, for when nobody can be asked."""
        if commit == self.revision:
            return
        path = self._folder / "refs" / self.revision
        with suppress(OSError):  # a cache that can't be written served all the same
            if not path.exists() or path.read_bytes() != commit.encode():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, commit.encode())

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        with translated(self._error):
            path = try_to_load_from_cache(self.repo_id, name, cache_dir=self._cache, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def _fetched(self, name: str, largest: int, fresh: bool) -> Path:
        metadata = self.metadata(name)
        if metadata.size is not None and metadata.size > largest:
            raise _too_large(name, metadata.size, largest)
        path = self._folder / "snapshots" / str(metadata.commit_hash) / name
        with translated(self._error):
            if fresh or not path.exists():
                self._download(name, metadata, path, largest, fresh)
        return path

    def _download(self, name: str, metadata: HfFileMetadata, path: Path, largest: int, fresh: bool) -> None:
        """Put a file into the cache as huggingface_hub does: named by its etag, and a link to that.

        `metadata` has been checked, and nothing else the server says is a part of a path.
        """
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(**LIBRARY)
        if _origin(metadata.location) != _origin(endpoint()):
            headers.pop("authorization", None)
        blob = self._folder / "blobs" / str(metadata.etag)
        lock = self._cache / ".locks" / self._folder.name / f"{metadata.etag}.lock"
        for file in (blob, lock, path):
            file.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # others wait for one download
            if fresh or not blob.exists():
                with replacing(blob) as unfinished, _Bounded(unfinished, name, largest) as body:
                    size = metadata.size
                    http_get(metadata.location, body, headers=headers, expected_size=size, displayed_filename=name)
            _link(blob, path)

    @property
    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(os.path.expanduser(self.cache_dir or constants.HF_HUB_CACHE))

    @property
    def _folder(self) -> Path:
        return self._cache / f"models--{self.repo_id.replace('/', '--')}"

    def _error(self, kind: type[errors.WeightsError], reason: str) -> errors.WeightsError:
        text = f"{self.known}the weights {self} could not be loaded from {endpoint()}: {reason}"
        return kind(f"{text}\n{self.ways_out}".rstrip())

    def _untrusted(self, name: str, header: str, value: str | None, expected: str) -> errors.WeightsError:
        found = "absent" if value is None else repr(value[:200])
        reason = f"the server's answer was not trusted. Its {header} for {name} is {found}; expected {expected}"
        return self._error(errors.UntrustedError, f"{reason}. Nothing was written")


class _Bounded(io.BufferedWriter):
    """A file that takes so many bytes and no more, whatever a server announced."""

    def __init__(self, path: Path, name: str, largest: int) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.shown, self.largest = name, largest

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self.largest:
            raise _too_large(self.shown, self.tell() + len(data), self.largest)
        return super().write(data)


def _too_large(name: str, size: int, largest: int) -> errors.CheckpointError:
    return errors.CheckpointError(f"{name} has {size:,} bytes; expected at most {largest:,}")


def _link(blob: Path, path: Path) -> None:
    """Make `path` a link to `blob`, or `blob` itself where there are no links."""
    with replacing(path) as unfinished:
        unfinished.unlink()
        try:
            unfinished.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows without the right to make links
            os.replace(blob, unfinished)


def _origin(url: str) -> tuple[str, ...]:
    """Scheme and host."""
    return urllib.parse.urlsplit(url)[:2]


def endpoint() -> str:
    """Address of the Hub: `HF_ENDPOINT`, or huggingface_hub's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or (os.environ.get("HF_HUB_OFFLINE") or "").upper() in _TRUE


@contextmanager
def translated(error_of: Callable[[type[errors.WeightsError], str], errors.WeightsError]) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into our errors, worded by `error_of`."""
    try:
        yield
    except errors.WeightsError:
        raise
    except Exception as error:  # a server can bring an HTTP library to raise nearly anything
        raise error_of(*_reason(error)) from error


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: BaseException) -> tuple[type[errors.WeightsError], str]:
    from huggingface_hub import errors as hub_errors

    status = _status(error)
    first_line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, hub_errors.GatedRepoError) or status == 403:
        return errors.AccessError, f"access is restricted: ask for it on the repo's page, and log in ({_TOKEN})"
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return errors.RepoNotFoundError, f"no such repo, or a private one that needs a token ({_TOKEN})"
    if isinstance(error, hub_errors.HFValidationError):
        return errors.RepoNotFoundError, f"that is not the name of a repo: {first_line}"
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return errors.RevisionNotFoundError, "the repo has no such branch, tag or commit"
    if isinstance(error, hub_errors.EntryNotFoundError):
        return errors.FileNotInRepoError, "the repo lacks a file of a checkpoint (config.json, model.safetensors)"
    if status == 401:
        return errors.AccessError, f"the token ({_TOKEN}) was refused"
    if status is not None:
        why = " (too many requests)" if status == 429 else ""
        return errors.ServerError, f"the server answered {status}{why}: try later"
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return errors.OfflineError, "huggingface_hub is in offline mode (HF_HUB_OFFLINE)"
    if isinstance(error, OSError) and "Consistency check failed" in first_line:
        return errors.TruncatedError, f"the download ended early: {first_line}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK):
        return errors.CacheError, f"the cache can't be used: {error}"
    if isinstance(error, (OSError, hub_errors.HTTPError)):  # type: ignore[attr-defined]  # of the HTTP library in use
        return errors.UnreachableError, f"it can't be reached ({first_line})"
    return errors.ServerError, f"its answer was not understood ({type(error).__name__}: {first_line[:200]})"
