"""Whether the embedded metrics order the obvious cases: the example photographs, which were not trained on, above
blurred, JPEG-compressed and upsampled versions of themselves, at each of five strengths and from 64 pixels.

python benchmarks/lite_order.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import aigciqa
from aigciqa.training.lite.degradations import degrade

PROMPTS = Path(__file__).parent.parent / "examples" / "images" / "prompts"
DEGRADATIONS = ("gaussian_blur", "jpeg", "down_up")


def worse_versions(path: Path, photo: Tensor) -> list[Tensor]:
    """Degraded versions of a photograph (3, H, W), and those beside it in the examples."""
    versions = [degrade(photo, name, strength, seed=3) for name in DEGRADATIONS for strength in range(1, 6)]
    folders = PROMPTS.parent / "generated"
    return versions + [read(folders / name / path.name) for name in ("blurred", "jpeg10", "upsampled")]


def read(path: Path) -> Tensor:
    """An image as a tensor (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255.0


def main() -> None:
    for name, weights in (("nr-lite", "default"), ("nr-lite", "native"), ("fr-lite", "default")):
        metric = aigciqa.create_metric(name, weights=weights)
        wrong = total = 0
        for path in sorted(PROMPTS.glob("*.jpg")):
            photo = read(path)
            reference = (photo,) if metric.requires_reference else ()
            best = metric(photo, *reference).item()
            for worse in worse_versions(path, photo):
                wrong += metric(worse, *reference).item() >= best
                total += 1
        print(f"{name} ({weights}): {wrong} of {total} degraded images score as high as the photograph")


if __name__ == "__main__":
    main()
