"""`aigciqa publish`: a checkpoint on disk becomes a repo on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from aigciqa.cli.common import command, say


@command("publish")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo", metavar="REPO")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--revision", metavar="BRANCH", help="Branch to upload to, made if absent. [default: main]")
@click.option("-m", "--message", default="Upload with aigciqa", metavar="TEXT", help="Message of the commit.")
def main(folder: Path, repo: str, private: bool, revision: str | None, message: str) -> None:
    """Publish a checkpoint on the Hugging Face Hub.

    DIR is its folder, REPO the repo ("org/name"), made if absent. The checkpoint is loaded and checked first. Then its
    config.json, model.safetensors and README.md (the model card, where ORG/NAME becomes REPO) are uploaded in one
    commit, and nothing else. Needs a token with the right to write: `hf auth login`, or HF_TOKEN. HF_ENDPOINT
    names another Hub. Exit status: 0 published, 1 not published, 2 usage error.
    """
    from aigciqa.checkpoints import hub
    from aigciqa.errors import HubError
    from aigciqa.metric import Metric

    metric = Metric.from_pretrained(folder.resolve())
    try:
        address = hub.publish_folder(folder, repo, private=private, revision=revision, commit_message=message)
    except HubError as error:
        raise click.ClickException(str(error)) from None
    click.echo(address)
    pinned = f"{repo}@{address.rpartition('/')[2]}"
    say(f"Use it: aigciqa score IMAGES -m {metric.name} --weights {pinned}")
