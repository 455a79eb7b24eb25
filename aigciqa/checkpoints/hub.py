"""The Hugging Face Hub: fetch heads, and publish them. Only config, safetensors and a model card ever travel.

huggingface_hub does the transfers and the tokens; this module decides what is asked for, and says what went wrong.
Files are kept in huggingface_hub's cache, in its layout, but put there here: its own `hf_hub_download` makes paths of
what the server says. The endpoint (`HF_ENDPOINT`) and offline mode (`HF_HUB_OFFLINE`) are read at every call.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aigciqa import __version__
from aigciqa.checkpoints.format import (
    CARD_FILE,
    CONFIG_FILE,
    LARGEST_CONFIG,
    PLACEHOLDER,
    WEIGHTS_FILE,
    WeightsMetadata,
    model_card,
    read_config,
    verify,
)
from aigciqa.errors import (
    AccessError,
    AlteredError,
    CacheError,
    CheckpointError,
    FileNotInRepoError,
    OfflineError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    TruncatedError,
    UnreachableError,
    UntrustedError,
    WeightsError,
)
from aigciqa.utils.files import replacing

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

DEFAULT_ORG = "aigciqa"
_LIBRARY: Mapping[str, Any] = {"library_name": "aigciqa", "library_version": __version__}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*", re.ASCII)
#: What may be a file's name everywhere: printable ASCII but for what Windows reserves.
_ETAG = re.compile(r"(?!\.)(?:(?![<>:\"/\\|?*])[!-~]){1,128}")
_TRUE = ("1", "ON", "YES", "TRUE")
#: A server that is busy is asked again after so many seconds, as huggingface_hub does.
_PAUSES = (1, 2, 4, 8)
_BUSY = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


def default_repo(metric: str) -> str:
    """The repo a metric's default weights come from; the variable `AIGCIQA_HUB_ORG` changes the owner."""
    return f"{os.environ.get('AIGCIQA_HUB_ORG') or DEFAULT_ORG}/{metric}"


def endpoint() -> str:
    """Address of the Hub: `HF_ENDPOINT`, or huggingface_hub's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or (os.environ.get("HF_HUB_OFFLINE") or "").upper() in _TRUE


def or_cached(fetch: Callable[[bool], T], cache_only: bool) -> T:
    """What `fetch(cache_only)` returns; where the Hub or the disk fails, what `fetch(True)` finds, with a warning."""
    try:
        return fetch(cache_only)
    except (UnreachableError, ServerError, CacheError) as error:
        try:
            found = fetch(True)
        except WeightsError:
            raise error from None
        reason = str(error).partition("\n")[0]
        warnings.warn(f"{reason}; the cached copy is used, which may be old", RuntimeWarning, stacklevel=3)
        return found


@dataclass
class Repo:
    """A repo at a revision, as a source of files.

    A file of a pinned commit that is in the cache costs no request, any other cached file one light request (HEAD).

    Attributes:
        repo_id: `"org/name"`.
        revision: branch, tag or commit.
        cache_dir: huggingface_hub's own if None.
        local_files_only: look in the cache only.
        ways_out: what an error message ends with.

    Raises:
        RevisionNotFoundError: `revision` can't be one.
    """

    repo_id: str
    revision: str = "main"
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    ways_out: str = ""

    def __post_init__(self) -> None:
        if not _REVISION.fullmatch(self.revision):
            raise self._error(RevisionNotFoundError, "that is no name of a branch or tag, and no commit")

    def __str__(self) -> str:
        return repr(self.repo_id if self.revision == "main" else f"{self.repo_id}@{self.revision}")

    def file(self, name: str, *, largest: int, fresh: bool = False) -> Path:
        """A file of the repo, downloaded unless the cache has it.

        Args:
            name: the file's, without folders.
            largest: bytes it may have; no more are ever downloaded.
            fresh: download it although the cache has it.

        Returns:
            Its path, in a folder named as the commit.

        Raises:
            HubError: one of its kinds.
            TruncatedError: the download ended early.
            CheckpointError: the file is larger.
        """
        cached = self._cached(name)
        offline = self.local_files_only or _offline()
        if cached is not None and not fresh and (offline or _COMMIT.fullmatch(self.revision)):
            return cached
        if offline:
            raise self._error(OfflineError, f"its {name} is not in the cache, and the network may not be asked")
        for pause in _PAUSES if cached is None else ():
            try:
                return self._fetched(name, largest, fresh)
            except ServerError as error:
                if _status(error.__cause__) not in _BUSY:
                    raise
            time.sleep(pause)
        return self._fetched(name, largest, fresh)

    def metadata(self, name: str) -> HfFileMetadata:
        """What the endpoint says of a file: commit, etag, size. One light request.

        Commit and etag are safe as parts of a path.

        Raises:
            HubError: one of its kinds.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        with self._explained():
            url = hf_hub_url(self.repo_id, name, revision=self.revision, endpoint=endpoint())
            found = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **_LIBRARY)
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
                with replacing(path) as unfinished:
                    unfinished.write_text(commit)

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        with self._explained():
            path = try_to_load_from_cache(self.repo_id, name, cache_dir=self._cache, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def _fetched(self, name: str, largest: int, fresh: bool) -> Path:
        """The file of the commit that the revision is now."""
        metadata = self.metadata(name)
        if metadata.size is not None and metadata.size > largest:
            raise _too_large(name, metadata.size, largest)
        path = self._folder / "snapshots" / str(metadata.commit_hash) / name
        with self._explained():
            if fresh or not path.exists():
                self._download(name, metadata, path, largest, fresh)
        return path

    def _download(self, name: str, metadata: HfFileMetadata, path: Path, largest: int, fresh: bool) -> None:
        """Put a file into the cache as huggingface_hub does: named by its etag, and a link to that.

        `metadata` has been checked, and nothing else the server says is a part of a path.
        """
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(**_LIBRARY)
        if _origin(metadata.location) != _origin(endpoint()):
            headers.pop("authorization", None)
        blob = self._folder / "blobs" / str(metadata.etag)
        lock = self._cache / ".locks" / self._folder.name / f"{metadata.etag}.lock"
        for file in (blob, lock, path):
            file.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # others wait for one download
            if fresh or not blob.exists():
                with replacing(blob) as unfinished, _Bounded(unfinished, name, largest) as body:
                    http_get(
                        metadata.location,
                        body,
                        headers=headers,
                        expected_size=metadata.size,
                        displayed_filename=name,
                    )
            _link(blob, path)

    @property
    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(os.path.expanduser(self.cache_dir or constants.HF_HUB_CACHE))

    @property
    def _folder(self) -> Path:
        """Where the cache keeps the repo."""
        return self._cache / f"models--{self.repo_id.replace('/', '--')}"

    def _error(self, kind: type[WeightsError], reason: str) -> WeightsError:
        return kind(f"the weights {self} can't be had from {endpoint()}: {reason}\n{self.ways_out}".rstrip())

    def _untrusted(self, name: str, header: str, value: str | None, expected: str) -> WeightsError:
        found = "absent" if value is None else repr(value[:200])
        reason = f"that server is not to be trusted. Its {header} for {name} is {found}; expected {expected}"
        return self._error(UntrustedError, f"{reason}. Nothing was written")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what huggingface_hub and its HTTP library raise into our errors."""
        with _translated(self._error):
            yield


class _Bounded(io.BufferedWriter):
    """A file that takes so many bytes and no more, whatever a server announced."""

    def __init__(self, path: Path, name: str, largest: int) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.shown, self.largest = name, largest

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self.largest:
            raise _too_large(self.shown, self.tell() + len(data), self.largest)
        return super().write(data)


def _too_large(name: str, size: int, largest: int) -> CheckpointError:
    return CheckpointError(f"{name} has {size:,} bytes; expected at most {largest:,}")


def _link(blob: Path, path: Path) -> None:
    """Make `path` a link to `blob`, or `blob` itself where there are no links."""
    with replacing(path) as unfinished:
        unfinished.unlink()
        try:
            unfinished.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows without the right to make links
            os.replace(blob, unfinished)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


class HubCheckpoint:
    """A head in a repo: config and weights of one commit."""

    def __init__(
        self, repo: str, *, metric: str | None, cache_dir: str | os.PathLike[str] | None, local_files_only: bool
    ) -> None:
        """Args as `create_metric` has them; `repo` may end with `@revision`."""
        repo_id, _, revision = repo.partition("@")
        self.repo = Repo(repo_id, revision or "main", cache_dir, local_files_only, _ways_out(metric))

    def config_file(self) -> Path:
        """`config.json`; from then on the head is pinned to its commit."""
        path = self.repo.file(CONFIG_FILE, largest=LARGEST_CONFIG)
        self.pinned = replace(self.repo, revision=path.parent.name)
        return path

    def weights_file(self, metadata: WeightsMetadata) -> Path:
        """`model.safetensors`, verified; a damaged file in the cache is downloaded once more."""
        path = self.pinned.file(WEIGHTS_FILE, largest=metadata.size)
        try:
            verify(path, metadata)
        except (AlteredError, TruncatedError) as damage:
            try:
                path = self.pinned.file(WEIGHTS_FILE, largest=metadata.size, fresh=True)
            except (UnreachableError, ServerError, OfflineError, CacheError):
                raise damage from None
            verify(path, metadata)
        self.repo.remember(self.pinned.revision)  # not before: what is remembered is complete
        return path

    def refusal(self, error: CheckpointError) -> CheckpointError:
        """The same error, saying where the head came from and what to do."""
        text = str(error)
        if endpoint() in text:
            return error
        return type(error)(f"the weights {self.repo} of {endpoint()} are refused: {text}\n{self.repo.ways_out}")


def publish_folder(folder: Path, repo_id: str, *, private: bool, revision: str | None, commit_message: str) -> str:
    """Upload a head's three files in one commit; the repo and the branch are made if absent.

    Args:
        folder: a head that loads. Links that lead out of it are not followed.
        repo_id: `"org/name"`.
        private: whether a new repo is private.
        revision: branch; None for the main one.
        commit_message: of the upload.

    Returns:
        The commit's address.

    Raises:
        HubError: no access, no network, not the name of a repo or of a branch.
        CheckpointError: a link out of the folder, a model card that is no text.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    def error(kind: type[WeightsError], reason: str) -> WeightsError:
        return kind(f"{repo_id!r} can't be published to {endpoint()}: {reason}\n{_LOGIN}")

    if revision is not None and not _REVISION.fullmatch(revision):
        raise error(RevisionNotFoundError, f"{revision!r} is no name of a branch")
    files: dict[str, str | bytes] = {name: str(_inside(folder, name)) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    files[CARD_FILE] = _card(folder).replace(PLACEHOLDER, repo_id).encode()
    api = HfApi(endpoint=endpoint(), **_LIBRARY)

    with _translated(error):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            revision=revision,
            commit_message=commit_message,
        )
    return str(commit.commit_url)


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; raises CheckpointError if it is a link to a file elsewhere."""
    path = folder.resolve() / name
    if path.resolve().parent != path.parent:
        raise CheckpointError(f"{folder / name} is a link out of the folder, and is not published: copy the file there")
    return path


def _card(folder: Path) -> str:
    path = _inside(folder, CARD_FILE)
    if not path.exists():
        return model_card(read_config(folder / CONFIG_FILE)[0])
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is no file")
        return path.read_text(encoding="utf-8")
    except UnicodeError as error:
        raise CheckpointError(f"{path} is no text in UTF-8: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error


_LOGIN = "Publishing needs a token with the right to write: `hf auth login`, or the variable HF_TOKEN."


def _ways_out(metric: str | None) -> str:
    lite = f"{metric[:2]}-lite" if metric else "nr-lite"
    return (
        "Ways out: weights='org/name' or weights='./folder' of a head you have; weights=None for an untrained one; "
        f"create_metric({lite!r}), which needs no download; or a cache filled on a machine with network "
        "(cache_dir=, HF_HOME; HF_ENDPOINT names a mirror)."
    )


@contextmanager
def _translated(error_of: Callable[[type[WeightsError], str], WeightsError]) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into our errors, worded by `error_of`."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # a server can bring an HTTP library to raise nearly anything
        raise error_of(*_reason(error)) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: BaseException) -> tuple[type[WeightsError], str]:
    """Kind of a failure, and a sentence."""
    from huggingface_hub import errors

    status = _status(error)
    first_line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return AccessError, (
            "access is restricted: ask for it on the repo's page, and log in (`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return RepoNotFoundError, "no such repo, or a private one that needs a token (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, errors.HFValidationError):
        return RepoNotFoundError, f"that is no name of a repo: {first_line}"
    if isinstance(error, errors.RevisionNotFoundError):
        return RevisionNotFoundError, "the repo has no such branch, tag or commit"
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotInRepoError, f"the repo lacks a file that every head has ({CONFIG_FILE}, {WEIGHTS_FILE})"
    if status == 401:
        return AccessError, "the token (`hf auth login`, HF_TOKEN) was refused"
    if status is not None:
        return ServerError, f"the server answered {status}{' (too many requests)' if status == 429 else ''}: try later"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError, "huggingface_hub is in offline mode (HF_HUB_OFFLINE)"
    if isinstance(error, OSError) and "Consistency check failed" in first_line:
        return TruncatedError, f"the download ended early: {first_line}"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK):
        return CacheError, f"the cache can't be used: {error}"
    if isinstance(error, (OSError, errors.HTTPError)):  # type: ignore[attr-defined]  # of the HTTP library in use
        return UnreachableError, f"it can't be reached ({first_line})"
    return ServerError, f"its answer makes no sense ({type(error).__name__}: {first_line[:200]})"


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
