"""Checkpoints on the Hugging Face Hub: fetched and published. Nothing but their three files is ever transferred."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from aigciqa import errors
from aigciqa.checkpoints.card import CARD_FILE, PLACEHOLDER, model_card
from aigciqa.checkpoints.config import LARGEST_CONFIG, WeightsFile, read_config
from aigciqa.checkpoints.format import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, verify
from aigciqa.checkpoints.repo import LIBRARY, REVISION, PathName, Repo, endpoint, translated
from aigciqa.registry import known_metric

_REPO = re.compile(r"[\w.-]+/[\w.-]+(@.+)?", re.ASCII)
_LOGIN = "Publishing needs a token with the right to write: `hf auth login`, or the variable HF_TOKEN."


#: Owner of the repos of default weights. None of them is published yet.
_OWNER = "aigciqa"


def default_repo(metric: str) -> str:
    """The repo a metric's default weights come from; the variable `AIGCIQA_HUB_ORG` changes the owner."""
    return f"{os.environ.get('AIGCIQA_HUB_ORG') or _OWNER}/{metric.replace('/', '-')}"


class HubCheckpoint(Checkpoint):
    """A checkpoint in a Hub repo: config and weights of one commit."""

    def __init__(self, repo: str, metric: str | None, cache_dir: PathName | None, local_files_only: bool) -> None:
        super().__init__(repo)
        repo_id, _, revision = repo.partition("@")
        is_default = metric is not None and repo_id == default_repo(metric) and repo_id.startswith(f"{_OWNER}/")
        unpublished = f"No weights of {metric} are published yet: " if is_default else ""
        self.repo = Repo(repo_id, revision or "main", cache_dir, local_files_only, unpublished, _ways_out(metric))

    def config_file(self) -> Path:
        """`config.json`; from then on the checkpoint is pinned to its commit."""
        path = self.repo.file(CONFIG_FILE, largest=LARGEST_CONFIG)
        self.pinned = replace(self.repo, revision=path.parent.name)
        return path

    def weights_file(self, weights: WeightsFile) -> Path:
        """`model.safetensors`, verified; a damaged file in the cache is downloaded once more."""
        path = self.pinned.file(WEIGHTS_FILE, largest=weights.size)
        try:
            verify(path, weights)
        except (errors.AlteredError, errors.TruncatedError) as damage:
            try:
                path = self.pinned.file(WEIGHTS_FILE, largest=weights.size, fresh=True)
            except (errors.UnreachableError, errors.ServerError, errors.OfflineError, errors.CacheError):
                raise damage from None
            verify(path, weights)
        self.repo.remember(self.pinned.revision)  # not before: what is remembered is complete
        return path

    def refusal(self, error: errors.CheckpointError) -> errors.CheckpointError:
        if endpoint() in str(error):
            return error
        return type(error)(f"the weights {self.repo} from {endpoint()} were refused: {error}\n{self.repo.ways_out}")


def open_checkpoint(
    source: PathName, metric: str | None, cache_dir: PathName | None, local_files_only: bool
) -> Checkpoint:
    """A checkpoint: a folder if there is one of that name, else a Hub repo. Raises InputError if it is neither."""
    text = os.fspath(source)
    folder = Path(os.path.expanduser(text))
    if folder.is_dir():
        return Checkpoint(str(folder))
    if isinstance(source, str) and text[:1] not in (".", "/", "~") and _REPO.fullmatch(text):
        return HubCheckpoint(text, metric, cache_dir, local_files_only)
    given = f"`weights={text!r}`"
    if folder.is_file():
        made = " (aigciqa convert makes one of a .pt file)" if folder.suffix.lower() in (".pt", ".pth") else ""
        raise errors.InputError(f"{given} is a file, and a checkpoint is a folder: name its folder{made}")
    raise errors.InputError(
        f"{given}: no such folder, and not a Hub repo 'org/name' or 'org/name@revision'; also taken are 'default' and "
        "'imagenet'"
    )


def publish_folder(folder: Path, repo_id: str, *, private: bool, revision: str | None, commit_message: str) -> str:
    """Upload the three files of a checkpoint that loads, as `Metric.push_to_hub` does; returns the commit's address.

    Raises CheckpointError, too, for a link out of the folder and for a model card that is not text.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    def error(kind: type[errors.WeightsError], reason: str) -> errors.WeightsError:
        return kind(f"{repo_id!r} could not be published to {endpoint()}: {reason}\n{_LOGIN}")

    if revision is not None and not REVISION.fullmatch(revision):
        raise error(errors.RevisionNotFoundError, f"{revision!r} is not the name of a branch")
    files: dict[str, str | bytes] = {name: str(_inside(folder, name)) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    files[CARD_FILE] = _card(folder).replace(PLACEHOLDER, repo_id).encode()
    api = HfApi(endpoint=endpoint(), **LIBRARY)

    with translated(error):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo_id, additions, revision=revision, commit_message=commit_message)
    return str(commit.commit_url)


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; raises CheckpointError if it is a link to a file elsewhere."""
    path = folder.resolve() / name
    if path.resolve().parent != path.parent:
        raise errors.CheckpointError(f"{folder / name} is a link out of the folder: copy the file there to publish it")
    return path


def _card(folder: Path) -> str:
    path = _inside(folder, CARD_FILE)
    if not path.is_file():
        return model_card(read_config(folder / CONFIG_FILE)[0])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise errors.CheckpointError(f"{path} can't be read as text in UTF-8: {error}") from error


def _ways_out(metric: str | None) -> str:
    spec = known_metric(metric or "")
    embedded = "nr-lite" if spec is None else f"{spec.kind}-lite"
    return (
        f"Ways out: the metric {embedded}, which needs no download; `weights='./folder'` or `weights='org/name'` of a "
        "checkpoint you have; one of your own, which aigciqa fit and aigciqa train make; or a cache filled on a "
        "machine with network (HF_HOME says where; HF_ENDPOINT names a mirror)."
    )
