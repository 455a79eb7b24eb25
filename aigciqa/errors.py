"""The exceptions of the library. A value of the wrong type is Python's own `TypeError`."""

from __future__ import annotations

#: Characters of an error, at most. It goes into every row of a table, and may quote what is in a file.
MAX_ERROR = 500


def shortened(text: str) -> str:
    """An error of at most `MAX_ERROR` characters; the middle of a longer one is left out."""
    half = MAX_ERROR // 2
    return text if len(text) <= MAX_ERROR else f"{text[: half - 1]}…{text[-half:]}"


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


class LockedError(OSError):
    """A file or folder that another run is writing."""


class TrainingError(RuntimeError):
    """A training that can't go on, because it diverged; the message says what is kept."""


class WeightsError(Exception):
    """A head that can't be had. Where it was to come from the Hub, the message names the repo, the endpoint and the
    ways out."""


class CheckpointError(WeightsError, InputError):
    """A head whose files are missing or malformed; the message names the key or the tensor."""


class WrongMetricError(CheckpointError):
    """A head of another metric than the one asked for."""


class TruncatedError(CheckpointError):
    """Weights of another size than their config says."""


class AlteredError(CheckpointError):
    """Weights of the right size whose sha256 is not what their config says."""


class HubError(WeightsError, RuntimeError):
    """A head that can't be had from the Hugging Face Hub, or published there."""


class RepoNotFoundError(HubError):
    """No such repo, or a private one that the token in use does not open."""


class RevisionNotFoundError(HubError):
    """The repo has no such branch, tag or commit."""


class FileNotInRepoError(HubError):
    """The repo lacks a file that every head has."""


class AccessError(HubError):
    """The repo is gated, or the token in use was refused."""


class OfflineError(HubError):
    """Not in the cache, and the network may not be asked (`HF_HUB_OFFLINE`, `local_files_only`)."""


class CacheError(HubError):
    """The cache of downloads can't be used: a full disk, no right to write."""


class UntrustedError(HubError):
    """The endpoint's answer is no Hub's: written as it says, a file would land outside the cache."""


class UnreachableError(HubError):
    """The endpoint can't be reached, or does not answer in time."""


class ServerError(HubError):
    """The endpoint answers, but with an error of its own (429: too many requests, 5xx)."""
