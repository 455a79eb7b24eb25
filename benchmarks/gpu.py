"""What runs on CUDA, checked and measured on one GPU: a table in Markdown, in at most eight minutes.

    python benchmarks/gpu.py [--device cuda] [--tiny] [--parts correct fast training]

- correct: scores, maps and gradients of the GPU against those of the CPU, without TF32; memory that runs out, nvJPEG,
  streams, training. Metrics have learnt a little from random weights, as in scoring.py, so that scores differ.
- fast: images per second from tensors in the GPU's memory against the bare network, compiled and channels last; from
  files, against decoding and the network alone.
- training: steps per second against a plain loop.

Each part has its seconds; what they don't suffice for is a row that says so. So is a check that fails. The exit status
is 1 if a check of `correct` failed. `--tiny` takes few images and small networks: on a CPU, it tests this script.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import faulthandler
import functools
import gc
import itertools
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import scoring
import torch
import training
from click.testing import CliRunner
from interleaved import Case, medians
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

import aigciqa
from aigciqa.cli.train import main as train_command
from aigciqa.images.decode import load_image
from aigciqa.metric import Metric
from aigciqa.scoring import decoding
from aigciqa.scoring.encoder import BatchEncoder, Encoder, Maps
from aigciqa.training.run_folder import RunFolder

#: Part -> seconds that it may take.
PARTS = {"correct": 250.0, "fast": 150.0, "training": 40.0}
#: After which the script ends, whatever it does.
LIMIT = 478.0
#: How far float32 scores may be from the CPU's, as a share of their range, and how far those of half precision.
CLOSE, ALIKE = 1e-3, 0.999
#: Rank correlation that few images can tell.
ALIKE_TINY = 0.98
#: A gradient's distance, as a share of its norm: what is rounded to the other side of a ReLU counts in full.
CLOSE_GRADIENT = 1e-2
#: What the engine's network is to reach of the bare one, and training of the plain loop.
BARE, LOOP = 0.95, 1.0
#: What the process may take more where its memory is to run out.
SPARE_MEMORY = 2 << 30
NO_TIME, NO_GPU = "left out: the part's seconds are over", "left out: a GPU's alone"
PROMPT = scoring.PER_PROMPT


class Row(NamedTuple):
    """A row of the table; `ok` is None for figures that nothing is wanted of."""

    check: str
    wanted: str
    found: str
    ok: bool | None = None


class Bench:
    """What the checks share: the device, images, and metrics that have learnt a little."""

    def __init__(self, device: str, tiny: bool, folder: Path) -> None:
        self.device, self.tiny, self.folder = device, tiny, folder
        self.on_gpu = device == "cuda"
        self.deadline = 0.0
        self.batches = 3 if tiny else 12
        scoring.draw(folder / "images", 24 if tiny else 128)
        self.items = scoring.items_of(folder / "images")
        self.learning = {"images": 16, "epochs": 2} if tiny else {}
        self.trained = functools.cache(self._trained)

    def _trained(self, name: str) -> Metric:
        """On the CPU, in float32."""
        found = scoring.trained(name, self.folder / "training", self.device, **self.learning)
        return scoring.converted(found, "float32")

    def pair(self, name: str, *, as_loss: bool = False) -> list[Metric]:
        """A metric on the CPU and on the device, in float32."""
        metric = self.trained(name)
        return [scoring.converted(metric, "float32", each, as_loss=as_loss) for each in ("cpu", self.device)]

    def untrained(self, name: str) -> Metric:
        """A metric on the device, in the dtype to be fast in."""
        weights = "default" if name.endswith("lite") else None
        dtype = "bfloat16" if self.on_gpu else "float32"
        return aigciqa.create_metric(name, weights=weights, dtype=dtype, device=self.device)

    def pixels(self, metric: Metric, count: int, seed: int = 0) -> Tensor:
        """Preprocessed images, uint8 (B, 3, h, w)."""
        paths = [self.items[(seed + number) % len(self.items)].image for number in range(count)]
        images = [metric.preprocessor.image(load_image(path)) for path in paths]
        return torch.stack(images)

    def finish(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """A stream of its own, where there are any."""
        if not self.on_gpu:
            return contextlib.nullcontext()
        return torch.cuda.stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]

    def medians(self, cases: Mapping[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
        """Median seconds of cases, interleaved, each of which ends when the device has done it."""

        def run(case: Callable[[], object]) -> object:
            measured = case()
            self.finish()
            return measured

        return medians({name: functools.partial(run, case) for name, case in cases.items()}, 1 if self.tiny else rounds)

    def peak(self, case: Callable[[], object]) -> str:
        """The device's memory that a case takes at most."""
        if not self.on_gpu:
            return "memory is a GPU's alone"
        torch.cuda.reset_peak_memory_stats()
        case()
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB at most"


Check = Callable[[Bench], Iterator[Row]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --tiny tests this script without one")
    if not options.tiny:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS does not repeat itself
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{device}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| check | wanted | found | ok |\n|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.device, options.tiny, Path(folder))
        for part in options.parts:
            bench.deadline = time.monotonic() + (math.inf if options.tiny else PARTS[part])
            for name, check in CHECKS[part](bench).items():
                for row in rows_of(name, check, bench):
                    word = {True: "yes", False: "**no**", None: ""}[row.ok]
                    print(f"| {row.check} | {row.wanted} | {row.found} | {word} |", flush=True)
                    failed |= part == "correct" and row.ok is False
    sys.exit(failed)


def rows_of(name: str, check: Check, bench: Bench) -> Iterator[Row]:
    """A check's rows, one of them its failure, if it fails."""
    if time.monotonic() > bench.deadline:
        yield Row(name, "", NO_TIME)
        return
    try:
        yield from check(bench)
    except Exception as error:  # the others are still to come
        traceback.print_exc()
        yield Row(name, "no error", f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/")[:200], False)
    gc.collect()
    torch.cuda.empty_cache()


def correct(bench: Bench) -> dict[str, Check]:
    """Those of the first part; what takes longest comes last."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = ["nr-resnet18", "nr-lite", "fr-lite"]
    if not bench.tiny:
        names += ["fr-resnet18", "nr-resnet50", "fr-resnet50"]
        names += [name for name in aigciqa.list_metrics() if name not in names]
    checks: dict[str, Check] = {
        "lite at native size": native, "resized tensors": resized, "quality maps": maps, "gradients": gradients,
        "memory that runs out": out_of_memory, "nvJPEG": nvjpeg, "copies from pinned memory": pinned,
        "streams": streams, "aigciqa train": train,
    }  # fmt: skip
    checks |= {name: functools.partial(scores, name=name) for name in names}
    compiling = {
        f"{name}, torch.compile": functools.partial(compiled, name=name) for name in ("nr-resnet18", "nr-lite")
    }
    return {**checks, **compiling}


def fast(bench: Bench) -> dict[str, Check]:
    """Those of the second part, with TF32 as torch has it."""
    torch.backends.cudnn.allow_tf32 = True
    trunk = "resnet18" if bench.tiny else "resnet50"
    names = ["fr-resnet18", "nr-lite"] if bench.tiny else ["nr-resnet50", "fr-resnet50", "nr-lite", "fr-lite"]
    checks: dict[str, Check] = {f"{trunk}, tensors": functools.partial(tensors, trunk=trunk)}
    return checks | {f"{name}, files": functools.partial(files, name=name) for name in names}


def learning(_: Bench) -> dict[str, Check]:
    """That of the third part."""
    return {"training": steps}


CHECKS = {"correct": correct, "fast": fast, "training": learning}


def scores(bench: Bench, name: str) -> Iterator[Row]:
    """A metric's scores of files by the engine, on the device in each dtype against the CPU's in float32."""
    metric = bench.trained(name)
    plain = scoring.scores(metric, bench.items)
    found = {
        dtype: scoring.deviations(plain, scoring.scores(scoring.converted(metric, dtype, bench.device), bench.items))
        for dtype in ("float32", "bfloat16", "float16")
    }
    alike = ALIKE_TINY if bench.tiny else ALIKE
    ok = found["float32"][1] <= CLOSE and all(srcc >= alike for srcc, _ in found.values())
    wanted = f"float32 within {CLOSE:g} of the range; SRCC {alike} in half precision"
    shown = "; ".join(f"{dtype} {share:.1e}, SRCC {srcc:.5f}" for dtype, (srcc, share) in found.items())
    yield Row(name, wanted, shown, ok)


def native(bench: Bench) -> Iterator[Row]:
    """The variant of lite that sees images at their own size."""
    scoring.draw(bench.folder / "small", 8, side=300)
    items = [*bench.items[:8], *scoring.items_of(bench.folder / "small")]
    pair = [aigciqa.create_metric("nr-lite", weights="native", device=each) for each in ("cpu", bench.device)]
    yield close("nr-lite native, two sizes", *(scoring.scores(metric, items) for metric in pair))


def resized(bench: Bench) -> Iterator[Row]:
    """Tensors, which each device resizes its own way."""
    images = torch.stack([torch.from_numpy(np.array(load_image(item.image))) for item in bench.items[:8]])
    images = images.permute(0, 3, 1, 2)[..., :500, :400]
    for name in ("nr-resnet18", "nr-lite"):
        yield close(f"{name}, resized tensors", *(array(metric(images)) for metric in bench.pair(name)))


def maps(bench: Bench) -> Iterator[Row]:
    """Quality maps of the engine, and that their mean is the score."""
    kinds: tuple[Maps, ...] = ("coarse", "dense")
    for name, kind in itertools.product(("nr-resnet18", "nr-lite", "fr-lite"), kinds):
        found, off = [], 0.0
        for metric in bench.pair(name):
            records = list(aigciqa.score_files(bench.items[:4], metric=metric, maps=kind))
            drawn = [each.quality_map for each in records if each.quality_map is not None]
            means = zip(drawn, records, strict=True)
            off = max(abs(float(each.mean()) - record.scores[metric.dimension]) for each, record in means)
            found.append(np.stack(drawn))
        row = close(f"{name}, {kind} maps", *found)
        yield row._replace(found=f"{row.found}; mean off the score by {off:.1e}", ok=bool(row.ok and off <= CLOSE))


def gradients(bench: Bench) -> Iterator[Row]:
    """Of `as_loss`, with respect to the images."""
    for name in ("nr-resnet18", "nr-lite", "fr-lite"):
        found = []
        for metric in bench.pair(name, as_loss=True):
            batch = bench.pixels(metric, 4).float().div(255).to(metric.device).requires_grad_()
            prompt = batch.detach().flip(0)
            (metric(batch, prompt) if metric.requires_reference else metric(batch)).backward()
            assert batch.grad is not None
            found.append(batch.grad.cpu())
        off = float((found[1] - found[0]).norm() / found[0].norm())
        yield Row(f"{name}, gradients", f"within {CLOSE_GRADIENT:g} of the norm", f"{off:.1e}", off <= CLOSE_GRADIENT)


def compiled(bench: Bench, name: str) -> Iterator[Row]:
    """`torch.compile(metric)`; on the CPU traced alone, since compiling takes long."""
    metric = bench.pair(name)[1]
    images = bench.pixels(metric, 8).to(metric.device)
    faster = torch.compile(metric, backend="inductor" if bench.on_gpu else "eager")
    yield close(f"{name}, torch.compile", array(metric(images)), array(faster(images)))


def out_of_memory(bench: Bench) -> Iterator[Row]:
    """A batch that does not fit in what the process may take is halved until it does."""
    if not bench.on_gpu:
        yield Row("memory that runs out", "the batch is halved", NO_GPU)
        return
    metric = bench.pair("nr-vgg16")[1]
    encoder, images = Encoder(metric), list(bench.pixels(metric, 8)) * 64
    expected = torch.stack([each.features for each in BatchEncoder(8).encode(encoder, images[:8]) if each])
    batches = BatchEncoder(len(images))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + SPARE_MEMORY) / total)
    try:
        found = [each.features for each in batches.encode(encoder, images) if each is not None]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    sizes = list(batches.fitting.values())
    off = float((torch.stack(found[:8]) - expected).abs().max() / expected.abs().max())
    ok = len(found) == len(images) and bool(sizes) and off <= CLOSE
    shown = f"batches of {sizes}, {len(found)} encoded, features off by {off:.1e}"
    yield Row("memory that runs out", f"halved; all {len(images)} encoded, within {CLOSE:g}", shown, ok)


def nvjpeg(bench: Bench) -> Iterator[Row]:
    """Files decoded on the GPU against Pillow's, and that none was left to Pillow."""
    if not bench.on_gpu:
        yield Row("nvJPEG", "decodes each file", NO_GPU)
        return
    done: list[bool] = []
    preprocess = decoding._preprocess_on

    def counted(*arguments: Any) -> Any:
        found = preprocess(*arguments)
        done.append(found is not None)
        return found

    for name in ("nr-resnet18", "nr-lite"):
        done.clear()
        metric = bench.pair(name)[1]
        exact = scoring.scores(metric, bench.items)
        with mock.patch.object(decoding, "_preprocess_on", counted):
            found = scoring.scores(metric, bench.items, "nvjpeg")
        srcc, share = scoring.deviations(exact, found)
        ok = all(done) and (srcc >= 0.99 or name == "nr-lite")  # which looks at what the two do otherwise
        wanted = "all files; SRCC 0.99" if name != "nr-lite" else "all files"
        yield Row(
            f"{name}, nvJPEG", wanted, f"{sum(done)} of {len(done)}; SRCC {srcc:.5f}, {share:.1e} of the range", ok
        )


def pinned(bench: Bench) -> Iterator[Row]:
    """Batches copied while the ones before are computed, their memory used again."""
    for name in ("nr-resnet18", "nr-lite"):
        metric = bench.pair(name)[1]
        encoder = Encoder(metric)
        batches = [bench.pixels(metric, 4, seed=seed) for seed in range(bench.batches)]
        expected = []
        for batch in batches:
            expected.append(encoder.encode(batch.to(metric.device))[0])
            bench.finish()
        found = [encoder.encode(batch.clone())[0] for batch in batches]
        yield close(f"{name}, copies from pinned memory", array(torch.cat(expected)), array(torch.cat(found)))


def streams(bench: Bench) -> Iterator[Row]:
    """Scoring in a stream of the caller's, and in two threads' at once, which share a metric."""
    metric = bench.pair("nr-resnet18")[1]
    for decoder in ("pillow", "nvjpeg") if bench.on_gpu else ("pillow",):
        expected = scoring.scores(metric, bench.items, decoder)
        with bench.stream():
            found = scoring.scores(metric, bench.items, decoder)
        yield close(f"a stream of the caller's, {decoder}", expected, found)
    batches = [bench.pixels(metric, 4, seed=seed).to(metric.device) for seed in range(bench.batches)]
    expected = array(torch.cat([metric(batch) for batch in batches]))

    def score(batch: Tensor) -> np.ndarray:
        with bench.stream():
            return array(metric(batch))

    with ThreadPoolExecutor(2) as pool:
        yield close("two threads, two streams", expected, np.concatenate(list(pool.map(score, batches))))


def train(bench: Bench) -> Iterator[Row]:
    """Two epochs, and a run stopped after the first that goes on: as far from the whole run as its repetition is."""
    root = bench.folder / "images"
    rows = [(item.image, item.reference, 5 - scoring.noise(item) / 5) for item in bench.items[:48]]
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "reference", "quality"), *rows])
    name = "nr-resnet18" if bench.tiny else "fr-resnet18"
    common = ["folder", str(root), "-m", name, "-d", "quality", "--start", "none", "--epochs", "2", "--quiet"]
    common += ["--device", bench.device, "--cache", str(bench.folder / "cache")]
    for dtype in ("float32", "bfloat16", "float16") if bench.on_gpu else ("float32",):
        outputs = [bench.folder / f"{dtype}-{way}" for way in ("whole", "again", "stopped")]
        calls = [[*common, "--dtype", dtype, "-o", str(output)] for output in outputs]
        torch.use_deterministic_algorithms(True, warn_only=True)  # as far as there are any
        try:
            run_command(calls[0])
            run_command(calls[1])
            with mock.patch.object(RunFolder, "write_log", side_effect=KeyboardInterrupt):
                run_command(calls[2], status=130)
            run_command([*calls[2], "--resume"])
        finally:
            torch.use_deterministic_algorithms(False)
        whole, *others = (weights_of(output) for output in outputs)
        noise, off = (max(float((whole[key] - other[key]).abs().max()) for key in whole) for other in others)
        wanted = f"weights off by {2 * noise:.1e} at most, twice what a repetition is off by"
        yield Row(f"aigciqa train {name}, {dtype}, resumed", wanted, f"{off:.1e}", off <= 2 * noise)


def run_command(arguments: Sequence[str], status: int = 0) -> None:
    """`aigciqa train`."""
    done = CliRunner().invoke(train_command, arguments)
    if done.exit_code != status:
        raise RuntimeError(f"aigciqa train ended with {done.exit_code}: {done.output} {done.exception!r}")


def weights_of(output: Path) -> dict[str, Tensor]:
    """What a run has learnt in its last epoch."""
    state = torch.load(output / "training" / "state.pt", weights_only=True)
    return {key: value.double() for key, value in state["model"].items()}


def tensors(bench: Bench, trunk: str) -> Iterator[Row]:
    """From pixels in the device's memory, by the engine's network and by the metric's, against the bare network."""
    metrics = [bench.untrained(f"{kind}-{trunk}") for kind in ("nr", "fr")]
    dtype = metrics[0].autocast_dtype or torch.float32
    bare = bench.untrained(f"nr-{trunk}").backbone.to(dtype).to(memory_format=torch.channels_last)
    network = torch.compile(bare, dynamic=False, backend="inductor" if bench.on_gpu else "eager")
    scorers = [Encoder(metric) for metric in metrics]
    for size in (PROMPT,) if bench.tiny else (64, 256, 16):
        if time.monotonic() > bench.deadline:
            yield Row(f"{trunk}, {size} tensors", "", NO_TIME)
            continue
        pixels = bench.pixels(metrics[0], size).to(metrics[0].device)
        read = metrics[0].preprocessor.normalize(pixels).to(dtype).contiguous(memory_format=torch.channels_last)
        cases: dict[str, Callable[[], object]] = {"bare": functools.partial(network, read)}
        for metric, encoder in zip(metrics, scorers, strict=True):
            cases[metric.name] = functools.partial(encoded, metric, pixels, features_by(encoder))
            cases[f"{metric.name} called"] = functools.partial(encoded, metric, pixels, features_of(metric))
        passes = 1 if bench.tiny else 2048 // size
        with torch.inference_mode():
            spent = bench.medians({key: repeated(case, passes) for key, case in cases.items()})
        rates = {key: passes * size / seconds for key, seconds in spent.items()}
        for name in (metric.name for metric in metrics):
            limit = rates["bare"] * (PROMPT / (PROMPT + 1) if name.startswith("fr") else 1)
            share, called = rates[name] / limit, rates[f"{name} called"] / limit
            found = f"{share:.2f}: {rates[name]:.0f} of {limit:.0f} images/s; the metric's own network {called:.2f}"
            found += f"; {bench.peak(cases[name])}"
            wanted = f"{BARE} of the bare network, compiled"
            yield Row(f"{name}, four targets, {size} tensors", wanted, found, share >= BARE)


def encoded(metric: Metric, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores of pixels; a prompt for every eight images."""
    features = encode(pixels)
    if not metric.requires_reference:
        return metric.regress(features)
    return metric.regress(features, encode(pixels[: len(pixels) // PROMPT]).repeat_interleave(PROMPT, dim=0))


def features_by(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """The engine's network."""
    return lambda pixels: encoder.encode(pixels)[0]


def features_of(metric: Metric) -> Callable[[Tensor], Tensor]:
    """The metric's own network, as calling it runs it."""
    return lambda pixels: metric.backbone.pool(metric.feature_maps(pixels))


def files(bench: Bench, name: str) -> Iterator[Row]:
    """From files, by Pillow in a thread a core and by nvJPEG, against the slower of decoding and network alone."""
    metric, items = bench.untrained(name), many(bench)
    size, cores = 8 if bench.tiny else 64, os.cpu_count() or 1
    encoder, pixels = Encoder(metric), bench.pixels(metric, size).to(metric.device)
    alone = functools.partial(encoded, metric, pixels, features_by(encoder))
    paths = [item.image for item in items]
    paths += sorted({str(item.reference) for item in items}) if metric.requires_reference else []
    ways = (
        {"pillow": decode_with_pillow, "nvjpeg": decode_with_nvjpeg} if bench.on_gpu else {"pillow": decode_with_pillow}
    )
    cases: dict[str, Case] = {"network": repeated(alone, len(items) // size)}
    for decoder, decode in ways.items():
        cases[f"{decoder} alone"] = functools.partial(decode, metric, paths, cores)
        cases[decoder] = functools.partial(scoring.engine, metric, items, decoder, size, cores)
    cases["default workers"] = functools.partial(scoring.engine, metric, items, "pillow", size)
    rates = {key: len(items) / seconds for key, seconds in bench.medians(cases).items()}
    for decoder in ways:
        network, decoding_alone = rates["network"], rates[f"{decoder} alone"]
        share = rates[decoder] / min(network, decoding_alone)
        found = f"{rates[decoder]:.0f} images/s; {share:.2f} of the limit: "
        found += f"decoding {decoding_alone:.0f}, network {network:.0f}"
        if decoder == "pillow":
            found += f"; {rates['default workers']:.0f} with the default workers"
        yield Row(f"{name}, JPEG files of 512 x 512, {decoder}, {cores} threads", "", found)


def many(bench: Bench) -> list[aigciqa.Item]:
    """The images several times over, each time with prompts of their own."""
    items = bench.items[: 2 * PROMPT] if bench.tiny else list(bench.items)
    for number in range(0 if bench.tiny else 4):
        folder = bench.folder / f"prompts{number}"
        folder.mkdir(exist_ok=True)
        prompts = {str(item.reference): str(shutil.copy2(str(item.reference), folder)) for item in bench.items}
        items += [aigciqa.Item(item.image, prompts[str(item.reference)]) for item in bench.items]
    return items


def decode_with_pillow(metric: Metric, paths: Sequence[str], threads: int) -> None:
    """Decoded and preprocessed, no more."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: metric.preprocessor.image(load_image(path)), paths):
            pass


def decode_with_nvjpeg(metric: Metric, paths: Sequence[str], _: int) -> None:
    """Decoded in batches, no more."""
    for start in range(0, len(paths), 64):
        data = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in paths[start : start + 64]]
        decode_jpeg(data, mode=ImageReadMode.RGB, device=metric.device)


def steps(bench: Bench) -> Iterator[Row]:
    """Steps per second, against the loop in float32 and in the same precision."""
    name = "fr-resnet18" if bench.tiny else "fr-resnet50"
    samples = training.draw_database(bench.folder, 16 if bench.tiny else 48)
    ours = training.endless(training.ours(name, samples, bench.folder, device=bench.device, dtype="bfloat16"))
    loops = [training.Loop(name, samples, bench.device) for _ in range(2)]
    plain, mixed = (loop.steps() for loop in loops)

    def mixed_step() -> None:
        with torch.autocast(bench.device, torch.bfloat16):
            next(mixed)

    cases = {"ours": ours.__next__, "loop": plain.__next__, "loop in bfloat16": mixed_step}
    spent = bench.medians(cases, 40)
    for other in ("loop", "loop in bfloat16"):
        share = spent[other] / spent["ours"]
        found = f"{share:.2f}: {1 / spent['ours']:.1f} against {1 / spent[other]:.1f} steps/s"
        yield Row(
            f"{name}, bfloat16, batches of {training.BATCH}, {other}", f"{LOOP:g} of the {other}", found, share >= LOOP
        )


def repeated(case: Callable[[], object], times: int) -> Callable[[], None]:
    """A case so many times."""

    def run() -> None:
        for _ in range(times):
            case()

    return run


def close(check: str, expected: np.ndarray, found: np.ndarray) -> Row:
    """Whether values are the expected ones."""
    off = float(np.abs(found - expected).max() / np.ptp(expected))
    return Row(check, f"within {CLOSE:g} of the range", f"{off:.1e}", off <= CLOSE)


def array(scores: Tensor) -> np.ndarray:
    """On the CPU."""
    return scores.detach().cpu().numpy()


if __name__ == "__main__":
    main()
