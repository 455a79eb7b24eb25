"""The exceptions of the library. A value of the wrong type is Python's own `TypeError`."""

from __future__ import annotations

#: Characters of an error, at most. It goes into every row of a table, and may quote what is in a file.
MAX_ERROR = 500


def shortened(text: str, most: int = MAX_ERROR) -> str:
    """A text of at most so many characters, for an error; the middle of a longer one is left out."""
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[-half:]}"


class InputError(ValueError):
    """What was given is wrong; the message says what came, what was expected and what to do."""


class ImageError(InputError):
    """An image that can't be read: missing, truncated, bomb-sized, of an unknown format or mode."""


class DatabaseError(InputError):
    """A database that is not on disk as its authors publish it; the message lists every problem that was found."""


class SourceError(InputError):
    """A source of images, or a table of scores, that can't be used at all."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class MissingExtraError(ImportError):
    """A package is missing that one of the extras installs; the message says which."""


class OutputExistsError(InputError, FileExistsError):
    """What is to be written is there already; the message says what to do."""


class LockedError(OSError):
    """A file or folder that another run is writing."""


class TrainingError(RuntimeError):
    """A training that can't go on, because it diverged; the message says what is kept."""


class WeightsError(Exception):
    """Weights could not be loaded. For those of the Hub, the message names the repo, the endpoint and the ways out."""


class CheckpointError(WeightsError, InputError):
    """A checkpoint whose files are missing or malformed; the message names the key or the tensor."""


class WrongMetricError(CheckpointError):
    """A checkpoint of another metric than the one asked for."""


class TruncatedError(CheckpointError):
    """A file of weights whose size is not what the config says."""


class AlteredError(CheckpointError):
    """A file of weights of the right size whose sha256 is not what the config says."""


class HubError(WeightsError, RuntimeError):
    """Weights could not be loaded from the Hugging Face Hub, or not be published there."""


class RepoNotFoundError(HubError):
    """There is no such repo, or it is private and the token in use gives no access."""


class RevisionNotFoundError(HubError):
    """The repo has no such branch, tag or commit."""


class FileNotInRepoError(HubError):
    """The repo lacks a file that every checkpoint has."""


class AccessError(HubError):
    """The repo is gated, or the token in use was refused."""


class OfflineError(HubError):
    """The file is not in the cache, and downloads are off (`HF_HUB_OFFLINE`, `local_files_only`)."""


class CacheError(HubError):
    """The cache of downloads can't be written: the disk is full or read-only, or permission is missing."""


class UntrustedError(HubError):
    """The server's answer is not that of a Hub: followed, it would write a file outside the cache."""


class UnreachableError(HubError):
    """The server can't be reached, or does not answer in time."""


class ServerError(HubError):
    """The server answers with an error (429: too many requests, 5xx)."""
