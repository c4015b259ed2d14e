"""Text becomes tokens and windows; files held out are held out whole; bytes and BPE go there and back."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from mase.data.base import Passage, load
from mase.data.stdlib import sources
from mase.data.text import split
from mase.data.tokens import Bytes, Subwords, tokenizer
from mase.errors import ConfigError, ToolError

TEXT = "Ein Größenwahn, déjà vu — 東京.\n" * 40


def parts(data: object) -> list[Passage]:
    found = [getattr(data, name) for name in ("train", "validation", "test")]
    assert all(isinstance(part, Passage) for part in found)
    return found


def test_a_file_is_cut_and_windows_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    data = load("text", {"path": str(tmp_path / "a.txt"), "window": 16})
    assert data.task == "tokens" and data.tokenizer == Bytes()
    assert "".join(data.tokenizer.decode(part.ids.tolist()) for part in parts(data)) == TEXT
    for part in parts(data):
        assert part.x.shape == part.y.shape == ((len(part.ids) - 1) // 16, 16)
        assert torch.equal(part.x.flatten(), part.ids[: part.x.numel()])
        assert torch.equal(part.y.flatten(), part.ids[1 : part.x.numel() + 1])
        assert part.bytes == len(part.ids)
        assert part.x.data_ptr() == part.ids.data_ptr()  # a view


def test_of_twenty_files_one_is_test_and_one_is_validation(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i}>" * 10)
    (tmp_path / "other.md").write_text("not me")
    data = load("text", {"path": str(tmp_path), "window": 8})
    assert data.tokenizer is not None
    texts = [data.tokenizer.decode(part.ids.tolist()) for part in parts(data)]
    assert texts[1] == "<18>" * 10 + "<38>" * 10
    assert texts[2] == "<19>" * 10 + "<39>" * 10
    assert "<18>" not in texts[0] and "<17>" in texts[0] and "<20>" in texts[0]


def test_few_documents_are_joined_and_cut() -> None:
    assert split(["a" * 60, "b" * 40]) == ("a" * 60 + "b" * 30, "b" * 5, "b" * 5)


def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file \*\*/\*.txt; it holds nothing"):
        load("text", {"path": str(tmp_path)})
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ConfigError, match=r"data text: train: 8 tokens; a window of 128 needs 129 or more"):
        load("text", {"path": str(tmp_path / "short.txt")})
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.txt: this is not UTF-8 text: byte 2 is 0xf6"):
        load("text", {"path": str(tmp_path / "latin.txt")})
    with pytest.raises(ConfigError, match=r"nowhere: no file .*there is no such folder"):
        load("text", {"path": str(tmp_path / "nowhere")})


def test_the_standard_library_is_always_there() -> None:
    names = {path.name for path in sources()}
    assert {"argparse.py", "threading.py", "dataclasses.py"} <= names
    assert not any("site-packages" in path.parts or "test" in path.parts for path in sources())
    data = load("stdlib", {"window": 64})
    assert data.train.x.shape[1] == 64
    assert sum(part.bytes for part in parts(data)) > 5_000_000
    assert 0.02 < parts(data)[2].bytes / sum(part.bytes for part in parts(data)) < 0.1
    assert all(int(part.ids.max()) < 256 for part in parts(data))


@pytest.mark.parametrize("form", ["byte", "bpe", "bpe12", "bpe1e3", "vocab.txt"])
def test_an_unknown_form_of_tokens_is_told(form: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed are bytes, bpeN such as bpe1024, or the path of a tokenizer.json"):
        tokenizer(form, [])


def test_bpe_goes_there_and_back_and_is_shorter(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra hf")
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    data = load("text", {"path": str(tmp_path / "a.txt"), "window": 8, "tokens": "bpe300"})
    assert data.tokenizer is not None and data.tokenizer.size <= 300
    strange = "nicht im Text: ñ, 🙂\n"
    assert data.tokenizer.decode(data.tokenizer.encode(strange).tolist()) == strange
    train = parts(data)[0]
    assert len(train.ids) < 0.5 * train.bytes
    again = load("text", {"path": str(tmp_path / "a.txt"), "window": 8, "tokens": "bpe300"})
    assert again.digest() == data.digest()


def test_a_tokenizer_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra hf")
    trained = tokenizer("bpe300", [TEXT])
    trained.model.save(str(tmp_path / "tokenizer.json"))  # type: ignore[attr-defined]
    read = tokenizer(str(tmp_path / "tokenizer.json"), [])
    assert torch.equal(read.encode(TEXT), trained.encode(TEXT))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"broken.json: this is not a tokenizer"):
        tokenizer(str(tmp_path / "broken.json"), [])
    with pytest.raises(ConfigError, match=r"none.json: no such file"):
        tokenizer(str(tmp_path / "none.json"), [])


def test_the_tokenizer_of_a_transformers_model_is_taken() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    trained = tokenizer("bpe300", [TEXT])
    assert isinstance(trained, Subwords)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=trained.model)
    assert torch.equal(Subwords(theirs.backend_tokenizer).encode(TEXT), trained.encode(TEXT))
    assert Subwords(theirs.backend_tokenizer).encode(TEXT).tolist() == theirs.encode(TEXT, add_special_tokens=False)


def test_too_few_tokens_for_all_bytes_are_refused() -> None:
    pytest.importorskip("tokenizers", reason="needs the extra hf")
    with pytest.raises(ConfigError, match="tokens bpe255; allowed are 256 tokens or more"):
        tokenizer("bpe255", [TEXT])


def test_without_tokenizers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ToolError, match=r"tokens bpe512 needs the package tokenizers .*pip install 'mase-dse\[hf\]'"):
        tokenizer("bpe512", [TEXT])
    assert torch.equal(tokenizer("bytes", []).encode("ab"), torch.tensor([97, 98]))


@pytest.mark.parametrize("pattern", ["", "**x", "/etc/*"])
def test_an_impossible_pattern_is_told(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data text: pattern '{re.escape(pattern)}': "):
        load("text", {"path": str(tmp_path), "pattern": pattern})
