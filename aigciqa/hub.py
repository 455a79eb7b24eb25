"""Heads on the Hugging Face Hub: fetch and publish. Only config and safetensors are ever fetched."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aigciqa import __version__
from aigciqa.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from aigciqa.errors import HubError

if TYPE_CHECKING:
    from aigciqa.metric import Metric

DEFAULT_ORG = "aigciqa"


def default_repo(metric: str) -> str:
    """The repo a metric's default weights come from; the variable `AIGCIQA_HUB_ORG` changes the owner."""
    return f"{os.environ.get('AIGCIQA_HUB_ORG') or DEFAULT_ORG}/{metric}"


def fetch(repo: str, *, metric: str | None, cache_dir: str | None, local_files_only: bool) -> Path:
    """Download a head, or find it in the cache.

    Args:
        repo: `"org/name"` or `"org/name@revision"`.
        metric: the metric it is for, to name the ways out in an error.
        cache_dir: as huggingface_hub takes it.
        local_files_only: look in the cache only.

    Returns:
        The folder that holds `config.json` and `model.safetensors`.

    Raises:
        HubError: no such repo, revision or file, no access, no network.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = repo.partition("@")
    try:
        paths = [
            hf_hub_download(
                repo_id,
                name,
                revision=revision or None,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                library_name="aigciqa",
                library_version=__version__,
            )
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        ]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HubError(
            f"the weights {repo!r} can't be had from {constants.ENDPOINT}: {reason}\n{_ways_out(metric)}"
        ) from error
    return Path(paths[0]).parent


def publish(metric: Metric, repo_id: str, *, private: bool, revision: str | None, commit_message: str) -> str:
    """Write a head to a temporary folder and upload it; returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="aigciqa", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        metric.save_pretrained(folder)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
        )
    return str(commit.commit_url)


def _ways_out(metric: str | None) -> str:
    lite = f"{metric[:2]}-lite" if metric else "nr-lite"
    return (
        "Ways out: weights='org/name' or weights='./folder' of a head you have; weights=None for an untrained one; "
        f"create_metric({lite!r}), which needs no download; or a cache filled on a machine with network "
        "(cache_dir=, HF_HOME; HF_ENDPOINT names a mirror)."
    )
