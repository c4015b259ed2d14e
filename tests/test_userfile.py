"""The user's own file: whatever is wrong with it stands in one line that names the line of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mase import userfile
from mase.errors import ConfigError

TEXT = """from __future__ import annotations
import sys
from dataclasses import dataclass


@dataclass
class Sizes:
    hidden: int = 3


def build(hidden: int = 4, how: str = ""):
    if how == "raise":
        raise ValueError("one\\ntwo")
    if how == "exit":
        sys.exit(3)
    return Sizes(hidden)
"""


def made(folder: Path, text: str = TEXT, **options: Any) -> Any:
    (folder / "mine.py").write_text(text)
    return userfile.call("mine.py:build", folder, "model.python", options)


def test_a_function_of_the_file_is_called_and_dataclasses_work(tmp_path: Path) -> None:
    assert made(tmp_path, hidden=7).hidden == 7


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (TEXT, {"how": "raise"}, "model.python: mine.py:13 fails: ValueError: one"),
        (TEXT, {"how": "exit"}, "model.python: mine.py:15 fails: SystemExit: 3"),
        (TEXT, {"widht": 3}, "model.python: mine.py:build: options: got an unexpected keyword argument 'widht'"),
        ("import nowhere_at_all\n", {}, "mine.py:1 fails: ModuleNotFoundError"),
        ("x = 1\ndef build(:\n", {}, "mine.py:2 fails: SyntaxError"),
        ("def biuld(): ...\n", {}, "mine.py has no function 'build'; did you mean biuld?"),
    ],
)
def test_what_fails_is_named_with_its_line(text: str, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        made(tmp_path, text, **options)
    assert said in str(caught.value)
