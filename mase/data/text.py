"""Text for language models: a file, or a folder of files, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mase.data.base import DATASETS, Data, Passage, held
from mase.data.tokens import Tokenizer, tokenizer
from mase.doors import file
from mase.errors import ConfigError
from mase.options import Size

LARGEST = 1 << 32  # bytes of a file
EVERY = 20  # of so many files, the last is test and the one before is validation: 5 % each
PARTS = ("train", "validation", "test")
Texts = tuple[str, str, str]  # of the three splits


@DATASETS.add("text")
def text(path: Path, pattern: str = "**/*.txt", window: Size = 128, tokens: str = "bytes") -> Data:
    """Read UTF-8 text: token ids ``[n, window]`` and the tokens that follow them; 90 % train, 5 % validation, 5 % test.

    A folder of twenty files or more is split by files, so that what is held out is held out whole; fewer files, or one,
    are joined and cut twice.

    Args:
        path: file or folder. pattern: of the files in a folder. window: tokens of a sample. tokens: ``bytes``, or
            ``bpeN``: N tokens, learnt from the train split; or the path of a ``tokenizer.json``.
    """
    if path.is_file():
        files = [path]
    else:
        files = _matching(path, pattern)
    if not files:
        raise ConfigError(f"data text: {path}: no file {pattern}{held(path)}")
    return passages("text", split([_read(file) for file in files]), window, tokens)


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(p for p in folder.glob(pattern) if p.is_file())
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"data text: pattern {pattern!r}: {str(error)[:80]}") from None


def split(texts: Sequence[str]) -> Texts:
    """Return the text of each split, in order: whole documents where there are twenty or more, else by two cuts."""
    if len(texts) >= EVERY:
        places = [max(0, i % EVERY - (EVERY - 3)) for i in range(len(texts))]
        parts = [[t for t, place in zip(texts, places, strict=True) if place == part] for part in range(3)]
        return "".join(parts[0]), "".join(parts[1]), "".join(parts[2])
    whole = "".join(texts)
    first, second = (len(whole) * share // EVERY for share in (EVERY - 2, EVERY - 1))
    return whole[:first], whole[first:second], whole[second:]


def passages(name: str, texts: Texts, window: int, tokens: str) -> Data:
    """Return tokens and windows of three texts."""
    found = tokenizer(tokens, [texts[0]])
    parts = [passage(f"data {name}: {p}", t, found, window) for p, t in zip(PARTS, texts, strict=True)]
    return Data(name, *parts, task="tokens", tokenizer=found)


def passage(where: str, text: str, tokens: Tokenizer, window: int) -> Passage:
    """Return a text as tokens; the last tokens that fill no window are in no sample.

    Raises:
        ConfigError: the text is shorter than a window.
    """
    ids = tokens.encode(text)
    count = (len(ids) - 1) // window
    if count < 1:
        raise ConfigError(f"{where}: {len(ids)} tokens; a window of {window} needs {window + 1} or more")
    size = count * window
    return Passage(ids[:size].view(count, window), ids[1 : size + 1].view(count, window), ids, len(text.encode()))


def _read(path: Path) -> str:
    return file.text(path, LARGEST).replace("\r\n", "\n").replace("\r", "\n")
