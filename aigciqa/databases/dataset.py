"""Samples as a torch data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from aigciqa.databases.sample import Sample
from aigciqa.errors import InputError
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import Preprocess


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Rated images, preprocessed for a backbone up to `aigciqa.images.preprocess.Preprocessor.normalize`.

    Items are dictionaries of tensors: `"image"`, uint8 (3, h, w); `"reference"`, the same of the image prompt, where
    asked for; `"target"`, float32 (number of dimensions,).

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from aigciqa import Sample, metric_info
        >>> from aigciqa.databases.dataset import ImageDataset
        >>> path = str(pathlib.Path(tempfile.mkdtemp()) / "a.png")
        >>> Image.new("RGB", (300, 280)).save(path)
        >>> samples = [Sample(path, None, None, None, "a prompt", {"quality": 3.5})]
        >>> item = ImageDataset(samples, ["quality"], metric_info("nr-resnet50").preprocess)[0]
        >>> item["image"].shape, item["target"]
        (torch.Size([3, 224, 224]), tensor([3.5000]))
    """

    def __init__(
        self, samples: Sequence[Sample], dimensions: Sequence[str], preprocess: Preprocess, references: bool = False
    ) -> None:
        """Check that the samples have what is asked for; no image is opened.

        Args:
            samples: a part of a split.
            dimensions: the scores that `"target"` holds, in this order.
            preprocess: a metric's own.
            references: whether items have the image prompt.

        Raises:
            InputError: no samples, a dimension they were not rated for, or no image prompt.
        """
        if not samples or not dimensions:
            raise InputError(f"no {'dimensions' if samples else 'samples'} to make a data set of")
        for sample in samples:
            unrated = [name for name in dimensions if name not in sample.scores]
            if unrated:
                raise InputError(f"{sample.image} is not rated for {unrated[0]!r}; rated: {', '.join(sample.scores)}")
            if references and sample.reference is None:
                raise InputError(f"{sample.image} has no image prompt; use a no-reference metric, or a part that has")
        self.samples = tuple(samples)
        self.dimensions = tuple(dimensions)
        self.preprocessor = Preprocessor(preprocess)
        self.references = references

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read a sample's images; one that can't be read is an `ImageError`."""
        sample = self.samples[index]
        target = torch.tensor([sample.scores[name] for name in self.dimensions], dtype=torch.float32)
        item = {"image": self._preprocess(sample.image), "target": target}
        if self.references and sample.reference is not None:
            item["reference"] = self._preprocess(sample.reference)
        return item

    def _preprocess(self, path: str) -> Tensor:
        return self.preprocessor.image(load_image(path))
