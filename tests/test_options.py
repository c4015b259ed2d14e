"""Options of a builder are checked against its signature, and what is wrong is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import PositiveInt

from mase.errors import ConfigError
from mase.options import call


def build(width: PositiveInt, name: str = "x", sizes: tuple[PositiveInt, ...] = (1, 2)) -> tuple[Any, ...]:
    return width, name, sizes


def local(path: Path) -> Path:
    return path


def hub(path: str) -> str:
    return path


def test_what_the_annotations_allow_arrives() -> None:
    assert call(build, {"width": 3, "sizes": [4, 5]}, "thing") == (3, "x", (4, 5))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widht": 3}, "thing: unknown option 'widht'; did you mean width?"),
        ({}, "thing: option 'width' is missing"),
        ({"width": 0}, "thing: option 'width': found 0; input should be greater than 0"),
        ({"width": "wide"}, "thing: option 'width': found 'wide'; input should be a valid integer"),
        ({"width": 3, "sizes": [4, -5]}, "thing: option 'sizes.1': found -5; input should be greater than 0"),
        ({"width": 3, "sizes": 4}, "thing: option 'sizes': found 4; input should be a valid array"),
    ],
)
def test_what_is_wrong_stands_in_one_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(build, options, "thing")
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    assert call(local, {"path": "a/b"}, "thing", tmp_path) == tmp_path / "a" / "b"
    assert call(local, {"path": "/a/b"}, "thing", tmp_path) == Path("/a/b")
    assert call(local, {"path": "a/b"}, "thing") == Path("a/b")


def test_a_name_on_a_hub_is_left_alone_unless_the_folder_is_there(tmp_path: Path) -> None:
    assert call(hub, {"path": "org/name"}, "thing", tmp_path) == "org/name"
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert call(hub, {"path": "org/name"}, "thing", tmp_path) == str(tmp_path / "org" / "name")
