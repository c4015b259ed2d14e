"""Files are found from a checkout and from an installed wheel; the cache obeys its variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mase import paths
from mase.errors import ToolError

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_uses_its_own_files() -> None:
    assert (paths.data_dir(), paths.hw_dir(), paths.configs_dir()) == (ROOT, ROOT / "hw", ROOT / "configs")


def test_a_wheel_uses_the_files_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mase/_data/hw", "mase/_data/configs", "hw", "configs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "mase" / "paths.py"))
    assert paths.data_dir() == tmp_path / "mase" / "_data"


def test_a_damaged_installation_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "mase" / "paths.py"))
    with pytest.raises(ToolError, match=r"no hw and configs folders .* install mase-dse again"):
        paths.hw_dir()


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        (None, None, "/home/me/.cache/mase"),
        ("", "", "/home/me/.cache/mase"),
        (None, "/xdg", "/xdg/mase"),
        (None, "relative", "/home/me/.cache/mase"),
        ("/own", "/xdg", "/own"),
        ("~/own", None, "/home/me/own"),
    ],
)
def test_cache_dir_obeys_its_variables(
    own: str | None, xdg: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("MASE_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert paths.cache_dir() == Path(expected)


def test_a_relative_cache_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASE_CACHE", "here")
    assert paths.cache_dir() == tmp_path / "here"
