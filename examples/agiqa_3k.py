"""Train a metric on AGIQA-3K, for quality and correspondence in one model, and compare it with people.

    python examples/agiqa_3k.py AGIQA-3K --output checkpoints/agiqa-3k

AGIQA-3K has no image prompts, so the metric is a no-reference one. By default prompts of the test part are never seen
(`--protocol paper` does as the paper's training code). A run that is broken off goes on where it stopped. Needs the
database and `pip install aigciqa[train]`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import aigciqa

DATABASE = "agiqa-3k"


def main() -> None:
    """Run both commands."""
    options = arguments()
    folder = options.output
    begun = folder / "training"
    if (begun / "state.pt").exists() or not (folder / "config.json").exists():
        run(
            "train", DATABASE, str(options.root), "-m", options.metric, "--protocol", options.protocol,
            "--epochs", str(options.epochs), "--start", options.pretrained, "--seed", str(options.seed),
            "-o", str(folder), *(["--resume"] if (begun / "split.json").exists() else []),
        )  # fmt: skip
    # Protocol and seed are in the checkpoint: the evaluation takes them from there.
    run(
        "evaluate", DATABASE, str(options.root), "-m", options.metric, "--weights", str(folder),
        "-o", str(folder / "evaluation.md"),
        "--plots", str(folder / "plots"), "--predictions", str(folder / "test.csv"), "--overwrite",
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of AGIQA-3K")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/agiqa-3k"), help="folder of the checkpoint")
    parser.add_argument("--metric", choices=aigciqa.list_metrics("nr-[!l]*"), default="nr-resnet50")
    parser.add_argument("--protocol", choices=("prompt-disjoint", "paper"), default="prompt-disjoint")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--pretrained", choices=("imagenet", "none"), default="imagenet")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def run(*arguments: str) -> None:
    """Show a command, then run it."""
    print("aigciqa", *arguments, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "aigciqa.cli", *arguments])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
