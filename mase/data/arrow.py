"""Any data set that the package ``datasets`` saved with ``save_to_disk``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mase.data.base import DATASETS, Data, Split, needs, split_by_class
from mase.data.text import passages, split
from mase.errors import ConfigError, suggest
from mase.options import Size

PARTS = ("train", "validation", "test")


@DATASETS.add("arrow")
def arrow(path: Path, inputs: str, labels: str = "", window: Size = 128, tokens: str = "bytes") -> Data:
    """Read a folder of ``save_to_disk``: images (to ``[n, channels, height, width]`` in 0..1), numbers, or text.

    A folder with splits ``train``, ``validation`` and ``test`` keeps them. Any other is joined and split again: by
    class into 64 / 16 / 20 %, text as the data set ``text`` does.

    Args:
        path: what was saved. inputs: column of the inputs. labels: column of the classes; none for text.
        window: tokens of a sample of text. tokens: as of the data set ``text``.
    """
    parts = _open(path)
    for column in filter(None, (inputs, labels)):
        columns = parts[0].column_names
        if column not in columns:
            raise ConfigError(f"data arrow: {path}: there is no column {column!r}{suggest(column, columns)}")
    if not labels:
        texts = [_texts(path, part, inputs) for part in parts]
        if len(texts) == 1:
            return passages("arrow", split(texts[0]), window, tokens)
        train, validation, test = ("".join(part) for part in texts)
        return passages("arrow", (train, validation, test), window, tokens)
    splits = [Split(_inputs(path, part, inputs), _labels(path, part, labels)) for part in parts]
    return Data("arrow", *splits) if len(splits) == 3 else split_by_class("arrow", splits[0].x, splits[0].y)


def _open(path: Path) -> list[Any]:
    """Return train, validation and test, or all rows in one part."""
    datasets = needs("datasets", "data", "data arrow")
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - raises what pyarrow, the file system and the package itself raise
        raise ConfigError(f"data arrow: {path}: save_to_disk did not write this folder: {str(error)[:120]}") from None
    if not isinstance(found, dict):
        return [found]
    if all(part in found for part in PARTS):
        return [found[part] for part in PARTS]
    return [datasets.concatenate_datasets([found[part] for part in sorted(found)])]


def _texts(path: Path, part: Any, name: str) -> list[str]:
    """Return a column of text."""
    found = list(part[:][name])
    if not all(isinstance(text, str) for text in found):
        raise ConfigError(
            f"data arrow: {path}: column {name!r} does not hold text; for classes name the column `labels`"
        )
    return found


def _column(path: Path, part: Any, name: str) -> Any:
    """Return a column as one array of numbers."""
    found = np.asarray(part.with_format("numpy")[:][name])
    if found.dtype == object or not (np.issubdtype(found.dtype, np.number) or found.dtype == bool):
        raise ConfigError(f"data arrow: {path}: column {name!r} does not hold numbers of one shape ({found.dtype})")
    return found


def _inputs(path: Path, part: Any, name: str) -> Tensor:
    found = _column(path, part, name)
    x = torch.tensor(found)
    if x.dtype == torch.uint8 and x.dim() in (3, 4):  # images, with the channels last
        return (x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)).float().contiguous() / 255
    return x.float()


def _labels(path: Path, part: Any, name: str) -> Tensor:
    found = _column(path, part, name)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(
            f"data arrow: {path}: column {name!r} is {found.dtype} {found.shape}; classes are integers [n]"
        )
    return torch.tensor(found, dtype=torch.int64)
