"""What the scripts of this folder share: train what is missing, evaluate all, print the paper's rows beside ours."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

import aigciqa
from aigciqa.databases import Sample, load_database
from aigciqa.errors import InputError, MissingExtraError, WeightsError
from aigciqa.evaluation import Predictions, Setting, evaluate, predict, text

DATABASE = "pku-i2iqa"
KINDS = ("nr", "fr")
BACKBONES = ("vgg16", "vgg19", "resnet18", "resnet50", "inceptionv4")
DIMENSIONS = ("quality", "authenticity", "correspondence", "overall")
TRAIN = (sys.executable, "-m", "aigciqa.cli", "train")


def main(protocol: str, description: str) -> None:
    """Reproduce one table of the paper.

    Args:
        protocol: of the library.
        description: what the table shows; the help text.
    """
    try:
        reproduce(protocol, arguments(description))
    except (InputError, MissingExtraError, WeightsError, OSError) as error:  # what the library refuses
        raise SystemExit(f"error: {error}") from None


def reproduce(protocol: str, options: argparse.Namespace) -> None:
    """Train what is missing, evaluate, print."""
    database = load_database(DATABASE, options.root)
    split = database.split(protocol)
    predictions = []
    for name in metrics(options):
        checkpoints = {label: options.checkpoints / protocol / name / label for label in runs(options)}
        for label, folder in checkpoints.items():
            train(folder, name, protocol, label, options)
        predictions.append(predicted(name, checkpoints, split.test, options))
    evaluation = evaluate(
        predictions,
        split.test,
        dimensions=options.dimensions,
        setting=Setting(DATABASE, split.protocol, "test", split.seed, split.digest),
    )
    print(text.caption(evaluation))
    print(text.agreement_table(evaluation.results, intervals=False).aligned())
    if options.output is not None:
        text.write_report(evaluation, options.output)
    if evaluation.failures:
        sys.exit(f"{len(evaluation.failures)} scores are missing; the first: {evaluation.failures[0][2]}")


def arguments(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Needs the PKU-I2IQA database and pip install 'aigciqa[train]'. Ten models for four targets take about "
        "a day on one GPU. What is trained is kept: a run that is broken off goes on where it stopped.",
    )
    parser.add_argument("root", type=Path, help="folder of PKU-I2IQA")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="where they are kept [checkpoints]"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--dimensions", nargs="+", choices=DIMENSIONS, default=DIMENSIONS)
    parser.add_argument("--joint", action="store_true", help="one model for all dimensions; the paper trains one each")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--pretrained", choices=("imagenet", "none"), default="imagenet", help="where training starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, mps [training: what there is; evaluation: cpu]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("-o", "--output", help="also write the table: .csv, .json, .md or .tex")
    options = parser.parse_args()
    if options.output is not None:
        text.check_suffix(options.output)
    return options


def metrics(options: argparse.Namespace) -> Iterator[str]:
    """Names of the models, in the paper's order."""
    for kind in options.kinds:
        for backbone in options.backbones:
            yield f"{kind}-{backbone}"


def runs(options: argparse.Namespace) -> Sequence[str]:
    """Name of each checkpoint of a model: the dimensions it learns."""
    return [",".join(options.dimensions)] if options.joint else options.dimensions


def train(folder: Path, name: str, protocol: str, dimensions: str, options: argparse.Namespace) -> None:
    """Train a checkpoint by `aigciqa train`, or what is left of it."""
    if epochs_done(folder) >= options.epochs:
        return
    command = [
        DATABASE, str(options.root), "-m", name, "--protocol", protocol, "--dimensions", dimensions, "-o", str(folder),
        "--epochs", str(options.epochs), "--start", options.pretrained, "--seed", str(options.seed),
        "--dtype", options.dtype,
        *(["--device", options.device] if options.device else []),
        *(["--resume"] if (folder / "training" / "split.json").exists() else []),
    ]  # fmt: skip
    print("aigciqa train", *command, file=sys.stderr, flush=True)
    done = subprocess.run([*TRAIN, *command], stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)


def epochs_done(folder: Path) -> int:
    """Whole epochs that a checkpoint was trained, by its log."""
    log = folder / "training" / "log.csv"
    if not log.exists():
        return 0
    with log.open(newline="", encoding="utf-8") as stream:
        return sum(1 for _ in csv.DictReader(stream))


def predicted(
    name: str, checkpoints: dict[str, Path], samples: Sequence[Sample], options: argparse.Namespace
) -> Predictions:
    """Scores by a model's checkpoints, in one pass, as those of one metric."""
    loaded = {
        label: aigciqa.create_metric(name, weights=folder, device=options.device, dtype=options.dtype)
        for label, folder in checkpoints.items()
    }
    with tqdm(total=len(loaded) * len(samples), desc=name, unit="score", leave=False, disable=None) as bar:
        found = predict(loaded, samples, progress=bar.update)
    scores = {dimension: values for each in found for dimension, values in each.scores.items()}
    return Predictions(name, scores, found[0].errors, name)
