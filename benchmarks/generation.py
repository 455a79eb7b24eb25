"""What reading prompts and seeds from the files adds to the time of scoring them.

    python benchmarks/generation.py [--images 64] [--rounds 9] [--workers 2]

Scores 1024 x 1024 PNG files, with the texts of ComfyUI (20 kB and 20 kB), AUTOMATIC1111 and none in turn, by `nr-lite`,
with `generation=` and without it, interleaved; and times the reading alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import medians
from PIL import Image, PngImagePlugin

import aigciqa

SETTINGS = "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Model: sdxl"


def graph_text() -> str:
    """A graph of 100 nodes, 20 kB as JSON: four LoRAs, and 90 nodes that a picture goes through after it is made."""
    graph = {
        str(number): {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"lora_name": f"lora-{number}.safetensors", "strength_model": 0.5, "model": [str(number + 1), 0]},
        }
        for number in range(96, 100)
    }
    graph["100"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}}
    for number in range(90):
        after = "sampler" if number == 89 else str(number + 1)
        inputs = {"image": [after, 0], "strength": 0.5, "mode": "a mode with a name", "size": 512, "is_on": True}
        title = {"title": "a node, and what its user calls it, which may be longer than its name"}
        graph[str(number)] = {"class_type": "ImageFilter", "inputs": inputs, "_meta": title}
    graph["text"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["100", 1]}}
    sampler = {
        "seed": 42,
        "steps": 20,
        "cfg": 7.0,
        "sampler_name": "euler",
        "model": ["96", 0],
        "positive": ["text", 0],
    }
    graph["sampler"] = {"class_type": "KSampler", "inputs": sampler}
    graph["save"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0]}}
    return json.dumps(graph)


def write_images(folder: Path, count: int) -> list[str]:
    """Write noise over gradients, which is as hard to decode as a picture."""
    rng = np.random.default_rng(0)
    graph = graph_text()
    texts: tuple[dict[str, str], ...] = ({"prompt": graph, "workflow": graph}, {"parameters": SETTINGS}, {})
    paths = []
    for number in range(count):
        levels = np.linspace(40, 200, 1024)[:, None, None] + rng.integers(0, 16, (1024, 1024, 3))
        info = PngImagePlugin.PngInfo()
        for keyword, text in texts[number % len(texts)].items():
            info.add_text(keyword, text)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(levels.astype(np.uint8)).save(paths[-1], pnginfo=info)
    return paths


def main() -> None:
    """Measure, and print milliseconds an image and the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    metric = aigciqa.create_metric("nr-lite")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), options.images)

        def score(**reading: Any) -> int:
            return sum(1 for _ in aigciqa.score_files(paths, metric=metric, workers=options.workers, **reading))

        times = medians(
            {
                "scoring": score,
                "scoring and reading": lambda: score(generation=("prompt", "seed", "model")),
            },
            options.rounds,
        )
        # By itself: what follows a light case has a rested machine, and looks faster than it is.
        times |= medians({"reading files": lambda: list(map(aigciqa.read_generation, paths))}, options.rounds)
    for name, seconds in times.items():
        print(f"{name}: {1000 * seconds / options.images:.2f} ms an image")
    print(f"reading adds {times['scoring and reading'] / times['scoring'] - 1:+.1%}", end="; ")
    print(f"alone it takes {times['reading files'] / times['scoring']:.1%} of the time of scoring")


if __name__ == "__main__":
    main()
