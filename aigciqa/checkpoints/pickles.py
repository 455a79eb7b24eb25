"""Files of other projects: pickles read without running what they ask for, and state dicts of whole networks."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigciqa.errors import CheckpointError

#: ImageNet classifiers of the paper's five networks.
_CLASSIFIERS = ("classifier.", "fc.", "_fc.", "last_linear.")


def as_state_dict(value: Any, shown: str) -> dict[str, Tensor]:
    """The value, if it is names and tensors; raises CheckpointError about `shown` otherwise."""
    pairs = value.items() if isinstance(value, Mapping) else [(None, value)]
    if not all(isinstance(name, str) and isinstance(part, Tensor) for name, part in pairs):
        raise CheckpointError(f"{shown} is not a state dict")
    return dict(value)


def without_classifier(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's state dict without the ImageNet classifier."""
    return {name: value for name, value in states.items() if not name.startswith(_CLASSIFIERS)}


def read_pickle(path: Path) -> Any:
    """The content of a `.pt` or `.pth` file of tensors and numbers alone; CheckpointError if it is anything else.

    Tensors stay on disk until they are used, where the format allows it.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # damaged pickles raise nearly anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it refers to the code {code[1]}, and is not read" if code else "it is damaged, or of another kind"
        raise CheckpointError(f"{path} is not a file of tensors and numbers alone: {reason}") from error


def _numpy_scalars() -> list[Any]:
    """What pickles of NumPy's float64 numbers refer to: the script's `rho_best` is one."""
    import codecs

    import numpy as np

    scalar, encode = np.float64(0).__reduce__()[0], codecs.encode
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since NumPy 2
    return [*((scalar, name) for name in names), np.dtype, type(np.dtype(np.float64)), (encode, "_codecs.encode")]
