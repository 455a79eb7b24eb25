"""`validation_scores`: a pipeline's pictures of some prompts and seeds, scored; the validation step of a training."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import random
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from aigciqa.create import create_metric
from aigciqa.errors import InputError
from aigciqa.images.generation.infotext import read_infotext
from aigciqa.images.generation.parameters import MAX_PROMPT
from aigciqa.integrations.picture_folder import infotext, open_folder, picture_name
from aigciqa.metric import Metric
from aigciqa.records import Record
from aigciqa.scoring.to_file import describe
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.means import mean_interval, prompt_of
from aigciqa.tables.columns import columns_of
from aigciqa.utils.object_stores import local_path
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS = ("prompt", "seed")
#: Generators of torch, and ComfyUI's seeds, have 64 bits.
_MAX_SEED = 2**64 - 1
#: Arguments of a pipeline that say what is made, and in which form.
_OWN = ("prompt", "generator", "output_type", "return_dict", "num_images_per_prompt")
_UNSAFE = "left out: the pipeline's safety checker made it black"


@dataclass(frozen=True)
class ValidationScores:
    """What `validation_scores` found.

    Attributes:
        dimension: the metric's main dimension.
        records: of each picture, its scores by dimension, with `prompt` and `seed` in `extra`. Those that the safety
            checker made black have an `error` instead of scores. All prompts by the first seed come first.
        pictures: the pictures of the first records, as many as were to be kept.

    Example:
        >>> from aigciqa import Record
        >>> from aigciqa.integrations.diffusers import ValidationScores
        >>> prompts = {"a cat": 3.0, "a dog": 4.0, "a boat": 3.5}
        >>> records = [
        ...     Record("", None, None, "nr-lite", {"quality": score}, extra={"prompt": prompt, "seed": "1"})
        ...     for prompt, score in prompts.items()
        ... ]
        >>> print(ValidationScores("quality", tuple(records)))
        nr-lite · quality: 3.500 [3.000, 4.000], 3 pictures of 3 prompts
    """

    dimension: str
    records: tuple[Record, ...]
    pictures: tuple[Image, ...] = field(default=(), repr=False)

    @property
    def mean(self) -> Interval:
        """The mean of the main dimension, with its 95% interval."""
        return self.mean_of(self.dimension)

    @property
    def left_out(self) -> int:
        """How many pictures the safety checker made black."""
        return sum(record.error is not None for record in self.records)

    def mean_of(self, dimension: str) -> Interval:
        """The mean of a dimension and its 95% interval, by resampling prompts with all their seeds.

        It is that of `aigciqa compare`. The ends are NaN for a single prompt. Raises InputError if the scores are of
        other dimensions.
        """
        known = dict.fromkeys(name for record in self.records for name in record.scores)
        if known and dimension not in known:
            raise InputError(f"no scores of {dimension!r}; there are those of {', '.join(known)}")
        scores = [record.scores.get(dimension, math.nan) for record in self.records]
        return mean_interval(scores, [_prompt(record) for record in self.records])

    def __str__(self) -> str:
        prompts = {record.extra["prompt"] for record in self.records}
        number = f"{counted(self.records, 'picture')} of {counted(len(prompts), 'prompt')}"
        black = f"; {self.left_out} left out, which the safety checker made black" if self.left_out else ""
        return f"{self.records[0].metric} · {self.dimension}: {self.mean}, {number}{black}"


class PictureScorer:
    """Prompts, seeds and a metric: what `validation_scores` does with one pipeline, for any number of them.

    The arguments are those of `validation_scores`, and are checked here.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        metric: str | Metric,
        *,
        references: Sequence[Any] | None = None,
        batch_size: int = 1,
        **pipeline_arguments: Any,
    ) -> None:
        prompts, seeds = _prompts(prompts), list(map(int, _listed("seeds", seeds, Integral)))
        if not (min(seeds) >= 0 and max(seeds) <= _MAX_SEED):
            raise InputError(f"`seeds` are from 0 to {_MAX_SEED}; got {min(seeds)} to {max(seeds)}")
        if batch_size < 1:
            raise InputError(f"`batch_size` is at least 1; got {batch_size}")
        for name in _OWN:
            if name in pipeline_arguments:
                raise InputError(f"`{name}`: validation_scores says that to the pipeline itself: leave it out")
        self.prompts, self.seeds, self.batch_size = tuple(prompts), tuple(seeds), batch_size
        self.pipeline_arguments = pipeline_arguments
        self.metric = create_metric(metric) if isinstance(metric, str) else metric
        if self.metric.requires_reference and references is None:
            raise InputError(f"{self.metric.name} compares with image prompts: pass `references`, one for each prompt")
        if references is not None:
            if not self.metric.requires_reference:
                raise InputError(f"{self.metric.name} takes no references; a metric that does: fr-lite")
            if len(references) != len(prompts):
                raise InputError(f"{len(prompts)} prompts but {len(references)} references: give each prompt one")
        self.references = references
        self.reference_features = None if references is None else self.metric.encode(list(references))

    def run(
        self,
        pipeline: Callable[..., Any],
        *,
        to: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        keep_pictures: int | None = 0,
    ) -> ValidationScores:
        """Make the pictures and score them; see `validation_scores`."""
        folder = local_path(to) if to else None
        columns = columns_of(self.metric.dimensions, _COLUMNS)
        kept: list[Image] = []
        records: list[Record] = []
        with contextlib.ExitStack() as stack:
            write = stack.enter_context(open_folder(folder, overwrite, columns, self._made_by())) if folder else None
            stack.enter_context(_undisturbed(pipeline))
            for start in range(0, len(self.prompts) * len(self.seeds), self.batch_size):
                pictures, batch = self._batch(pipeline, start)
                for picture, record in zip(pictures, batch, strict=True):
                    if write is not None:
                        write(picture, self._parameters(pipeline, record, picture), record)
                    if keep_pictures is None or len(kept) < keep_pictures:
                        kept.append(picture)
                records += batch
        return ValidationScores(self.metric.dimension, tuple(records), tuple(kept))

    def _batch(self, pipeline: Callable[..., Any], start: int) -> tuple[list[Image], list[Record]]:
        """Some pictures, by the number of the first, and their records. The prompts by the first seed come first."""
        count = len(self.prompts)
        numbers = range(start, min(start + self.batch_size, count * len(self.seeds)))
        indices = [number % count for number in numbers]
        seeds = [self.seeds[number // count] for number in numbers]
        from PIL.Image import Image

        made = pipeline(
            prompt=[self.prompts[index] for index in indices],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pil",
            **self.pipeline_arguments,
        )
        found = getattr(made, "images", made)
        if not isinstance(found, (list, tuple)) or not all(isinstance(each, Image) for each in found):
            raise InputError(f"the pipeline made {reprlib.repr(found)}; expected a list of PIL images")
        pictures = list(found)
        if len(pictures) != len(indices):
            raise InputError(
                f"the pipeline made {len(pictures)} pictures of {len(indices)} prompts; expected one of each"
            )
        black = getattr(made, "nsfw_content_detected", None)
        black = [False] * len(pictures) if black is None else black
        good = [place for place, is_black in enumerate(black) if not is_black]
        scores = self._scores([pictures[place] for place in good], [indices[place] for place in good])
        found = dict(zip(good, scores, strict=True))
        records = [
            Record(
                picture_name(index, seed),
                self._reference(index),
                None,
                self.metric.name,
                found.get(place, {}),
                None if place in found else _UNSAFE,
                extra={"prompt": self.prompts[index], "seed": str(seed)},
            )
            for place, (index, seed) in enumerate(zip(indices, seeds, strict=True))
        ]
        return pictures, records

    def _scores(self, pictures: list[Image], indices: list[int]) -> list[dict[str, float]]:
        if not pictures:
            return []
        features = None if self.reference_features is None else self.reference_features[indices]
        found = self.metric.predict(pictures, reference_features=features)
        return [
            dict(zip(found, each, strict=True)) for each in zip(*(found[name].tolist() for name in found), strict=True)
        ]

    def _reference(self, index: int) -> str | None:
        """The path of a prompt's image prompt, if it is a file."""
        reference = self.references[index] if self.references is not None else None
        return os.fspath(reference) if isinstance(reference, (str, os.PathLike)) else None

    def _made_by(self) -> dict[str, Any]:
        simple = {name: value for name, value in self.pipeline_arguments.items() if _is_simple(value)}
        return describe([self.metric], self.metric.dimensions, None, {"folder": ".", **simple})

    def _parameters(self, pipeline: Callable[..., Any], record: Record, picture: Image) -> str:
        """What made a picture."""
        defaults = {name: each.default for name, each in inspect.signature(pipeline).parameters.items()}
        given = {name: value for name, value in {**defaults, **self.pipeline_arguments}.items() if _is_simple(value)}
        scheduler = getattr(pipeline, "scheduler", None)
        steps, seed = given.get("num_inference_steps"), record.extra["seed"]
        settings = {
            **({"Seed": seed} if steps is None else {"Steps": steps}),  # by which such a line is known
            "Sampler": None if scheduler is None else type(scheduler).__name__.removesuffix("Scheduler"),
            "CFG scale": given.get("guidance_scale"),
            "Seed": seed,
            "Size": f"{picture.width}x{picture.height}",
            "Version": "diffusers" if type(pipeline).__module__.startswith("diffusers.") else "aigciqa",
        }
        return infotext(str(record.extra["prompt"]), given.get("negative_prompt"), settings)


def validation_scores(
    pipeline: Callable[..., Any],
    prompts: Sequence[str],
    seeds: Sequence[int],
    metric: str | Metric,
    *,
    references: Sequence[Any] | None = None,
    batch_size: int = 1,
    to: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    keep_pictures: int | None = 0,
    **pipeline_arguments: Any,
) -> ValidationScores:
    """Make a picture for each prompt and seed, and score it.

    It leaves training as it was: no gradients; the pipeline's modules in evaluation mode, and back in their modes
    afterwards; the global random numbers of Python, NumPy and torch as before. Each picture has a generator of its own
    on the CPU, seeded with its seed, so that the noise it starts from is the same everywhere.

    Args:
        pipeline: of diffusers, or a function that is called like one, `pipeline(prompt=[...], generator=[...],
            output_type="pil", **pipeline_arguments)`, and returns a list of PIL images or has them as `images`.
        prompts: different texts; blanks around them are left out.
        seeds: different whole numbers; each prompt is made with each of them.
        metric: a `Metric`, or what `create_metric` takes as a name.
        references: for FR, the image prompt of each prompt, as calling a metric takes them.
        batch_size: pictures that are made at once.
        to: a folder for the pictures, as PNG with prompt and seed inside, and the table `scores.csv`, so that
            `aigciqa compare` matches them. It is made if absent.
        overwrite: write into a folder that has such a table; the pictures that it names are removed.
        keep_pictures: so many of the first pictures are kept in the result; None: all. The others are let go.
        **pipeline_arguments: such as `num_inference_steps`, `guidance_scale`, `negative_prompt`; the same for all.

    Raises:
        InputError: unusable arguments; another number of pictures than of prompts.
        OutputExistsError: `to` has scores already.
        WeightsError, ImageError: as `create_metric`, and of references.

    Example:
        >>> from PIL import Image
        >>> from aigciqa.integrations.diffusers import validation_scores
        >>> def grey(prompt, generator, output_type):
        ...     return [Image.new("RGB", (64, 64), (9 * len(each),) * 3) for each in prompt]
        >>> found = validation_scores(grey, ["a cat", "a boat"], seeds=[1, 2], metric="nr-lite", batch_size=2)
        >>> [(record.extra["prompt"], record.extra["seed"]) for record in found.records][:3]
        [('a cat', '1'), ('a boat', '1'), ('a cat', '2')]
        >>> 0 <= found.mean.low <= found.mean.value <= found.mean.high <= 5
        True
    """
    scorer = PictureScorer(prompts, seeds, metric, references=references, batch_size=batch_size, **pipeline_arguments)
    return scorer.run(pipeline, to=to, overwrite=overwrite, keep_pictures=keep_pictures)


@contextlib.contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules in evaluation mode; afterwards each part is in its own mode again."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _is_simple(value: Any) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))  # as JSON has it


def _prompt(record: Record) -> str:
    return prompt_of({"reference": record.reference, "prompt": record.extra["prompt"], "image": record.image})


def _prompts(values: Iterable[Any]) -> list[str]:
    """Prompts without blanks around them; raises InputError unless tables and pictures can tell them as they are."""
    given = _listed("prompts", values, str)
    prompts = _listed("prompts", list(map(str.strip, given)), str)
    for prompt in prompts:
        read = read_infotext(infotext(prompt, None, {"Seed": 1, "Size": "1x1"}))
        if not prompt:
            raise InputError("`prompts` has an empty one, by which its pictures could not be matched: leave it out")
        if read is None or read.prompt != prompt:
            raise InputError(
                f"`prompts` has {reprlib.repr(prompt)}, which its picture could not tell as it is: leave out control "
                f"characters, and lines that begin with 'Negative prompt:' or 'Steps:'; at most {MAX_PROMPT} characters"
            )
    return prompts


def _listed(name: str, values: Iterable[Any], kind: type) -> list[Any]:
    """Values as a list; raises InputError unless these are different ones of a kind, and at least one."""
    listed = [] if isinstance(values, str) else list(values)
    if not listed or not all(isinstance(each, kind) and not isinstance(each, bool) for each in listed):
        raise InputError(f"`{name}` is a list of {'texts' if kind is str else 'whole numbers'}; got {values!r}")
    twice = next((each for each, times in Counter(listed).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"`{name}` has {twice!r} twice: its pictures would be the same")
    return listed


@contextlib.contextmanager
def _undisturbed(pipeline: Any) -> Iterator[None]:
    """A pipeline makes pictures without a trace: of gradients, modes, random numbers, its progress bar."""
    parts = [pipeline, *getattr(pipeline, "components", {}).values()]
    progress = getattr(pipeline, "_progress_bar_config", {})
    python, numpy = random.getstate(), np.random.get_state()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with (
        torch.no_grad(),
        torch.random.fork_rng(gpus),
        evaluating([part for part in parts if isinstance(part, nn.Module)]),
    ):
        if hasattr(pipeline, "set_progress_bar_config"):
            pipeline.set_progress_bar_config(**{**progress, "disable": True})
        try:
            yield
        finally:
            if hasattr(pipeline, "set_progress_bar_config"):
                pipeline.set_progress_bar_config(**progress)
            random.setstate(python)
            np.random.set_state(numpy)
