"""The Hugging Face Hub: fetch heads, and publish them. Only config, safetensors and a model card ever travel.

huggingface_hub does the transfers, the cache and the tokens; this module decides what is asked for, and says what went
wrong. The endpoint (`HF_ENDPOINT`) and offline mode (`HF_HUB_OFFLINE`) are read at every call.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigciqa import __version__
from aigciqa.checkpoint import (
    CARD_FILE,
    CONFIG_FILE,
    LARGEST_CONFIG,
    PLACEHOLDER,
    WEIGHTS_FILE,
    WeightsFacts,
    model_card,
    read_config,
    verify,
)
from aigciqa.errors import (
    AccessError,
    AlteredError,
    CheckpointError,
    FileNotInRepoError,
    HubError,
    OfflineError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    TruncatedError,
    UnreachableError,
    WeightsError,
)

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

DEFAULT_ORG = "aigciqa"
_LIBRARY: Mapping[str, Any] = {"library_name": "aigciqa", "library_version": __version__}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = ("1", "ON", "YES", "TRUE")


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


@dataclass
class Repo:
    """A repo at a revision, as a source of files.

    A file of a pinned commit that is in the cache costs no request, any other cached file one light request (HEAD). If
    the endpoint can't be reached, what the cache has of the revision is used, with a warning.

    Attributes:
        repo_id: `"org/name"`.
        revision: branch, tag or commit.
        cache_dir: as huggingface_hub takes it.
        local_files_only: look in the cache only.
        ways_out: what an error message ends with.
    """

    repo_id: str
    revision: str = "main"
    cache_dir: str | None = None
    local_files_only: bool = False
    ways_out: str = ""

    def __str__(self) -> str:
        return repr(self.repo_id if self.revision == "main" else f"{self.repo_id}@{self.revision}")

    def file(self, name: str, *, largest: int, fresh: bool = False) -> Path:
        """A file of the repo, downloaded unless the cache has it.

        Args:
            name: the file's, without folders.
            largest: bytes it may have; a larger one is refused before it is downloaded.
            fresh: download it although the cache has it.

        Raises:
            HubError: one of its kinds.
            TruncatedError: the download ended early.
            CheckpointError: the file is larger.
        """
        from huggingface_hub import hf_hub_download

        cached = self._cached(name)
        offline = self.local_files_only or _offline()
        if cached is not None and not fresh and (offline or _COMMIT.fullmatch(self.revision)):
            return cached
        if offline:
            raise self._error(OfflineError, f"its {name} is not in the cache, and the network may not be asked")
        try:
            metadata = self.metadata(name)
        except (UnreachableError, ServerError) as error:
            if cached is not None and not fresh:
                reason = str(error).partition("\n")[0]
                warnings.warn(f"{reason}; the cached copy is used, which may be old", RuntimeWarning, stacklevel=2)
                return cached
            if isinstance(error, UnreachableError):
                raise
        else:
            if metadata.size is not None and metadata.size > largest:
                raise CheckpointError(f"{name} has {metadata.size:,} bytes; expected at most {largest:,}")
            if cached is not None and not fresh and cached.parent.name == metadata.commit_hash:
                return cached
        with self._explained():
            path = hf_hub_download(
                self.repo_id,
                name,
                revision=self.revision,
                cache_dir=self.cache_dir,
                endpoint=endpoint(),
                force_download=fresh,
                **_LIBRARY,
            )
        return Path(path)

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache_dir, revision=self.revision)
        except HFValidationError as error:
            raise self._error(RepoNotFoundError, f"that is no name of a repo: {error}") from None
        return Path(path) if isinstance(path, str) else None

    def metadata(self, name: str) -> HfFileMetadata:
        """What the endpoint says of a file: commit, size, etag. One light request; raises HubError."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.repo_id, name, revision=self.revision, endpoint=endpoint())
        with self._explained():
            return get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **_LIBRARY)

    def _error(self, kind: type[WeightsError], reason: str) -> WeightsError:
        return kind(f"the weights {self} can't be had from {endpoint()}: {reason}\n{self.ways_out}".rstrip())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what huggingface_hub and its HTTP library raise into our errors."""
        with _translated(self._error):
            yield


class HubHead:
    """A head in a repo: config and weights of one commit."""

    def __init__(self, repo: str, *, metric: str | None, cache_dir: str | None, local_files_only: bool) -> None:
        """Args as `create_metric` has them; `repo` may end with `@revision`."""
        repo_id, _, revision = repo.partition("@")
        self.repo = Repo(repo_id, revision or "main", cache_dir, local_files_only, _ways_out(metric))

    def config_file(self) -> Path:
        """`config.json`; from then on the head is pinned to its commit."""
        path = self.repo.file(CONFIG_FILE, largest=LARGEST_CONFIG)
        self.pinned = replace(self.repo, revision=path.parent.name)
        return path

    def weights_file(self, facts: WeightsFacts) -> Path:
        """`model.safetensors`, verified; a damaged file in the cache is downloaded once more."""
        path = self.pinned.file(WEIGHTS_FILE, largest=facts.size)
        try:
            verify(path, facts)
        except (AlteredError, TruncatedError) as damage:
            try:
                path = self.pinned.file(WEIGHTS_FILE, largest=facts.size, fresh=True)
            except (UnreachableError, ServerError, OfflineError):
                raise damage from None
            verify(path, facts)
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
        folder: a head that loads.
        repo_id: `"org/name"`.
        private: whether a new repo is private.
        revision: branch; None for the main one.
        commit_message: of the upload.

    Returns:
        The commit's address.

    Raises:
        HubError: no access, no network, not the name of a repo.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    path = folder / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.exists() else model_card(read_config(folder / CONFIG_FILE)[0])
    files: dict[str, str | bytes] = {name: str(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    files[CARD_FILE] = card.replace(PLACEHOLDER, repo_id).encode()
    api = HfApi(endpoint=endpoint(), **_LIBRARY)

    def error(kind: type[WeightsError], reason: str) -> WeightsError:
        return kind(f"{repo_id!r} can't be published to {endpoint()}: {reason}\n{_LOGIN}")

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
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:  # HTTPError: of the HTTP library that is in use
        raise error_of(*_reason(error)) from error


def _reason(error: BaseException) -> tuple[type[WeightsError], str]:
    """Kind of a failure, and a sentence."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
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
        return HubError, f"the cache can't be written: {error}"
    return UnreachableError, f"it can't be reached ({first_line})"


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
