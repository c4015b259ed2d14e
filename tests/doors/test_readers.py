"""Whatever is done to a file that was whole, its reader takes it or refuses it in one line; nothing else comes out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import mase
from emit.design import Design
from emit.samples import load_samples
from emit.synth import SynthResult
from emit.verify import explain
from mase import config, flow
from mase.cost.resources import Resources
from mase.data.base import load as load_data
from mase.data.idx import read_idx
from mase.explore.study import Study
from mase.formats import FORMATS, parse
from mase.graph import Graph
from mase.models.huggingface import check_safetensors
from mase.paths import configs_dir
from mase.report import summary
from mase.stages import Stages
from tests.doors.fuzz import bytes_of, held, values_of
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl
from tests.report.example import example

CASES = 160
Maker = Callable[[Path], tuple[bytes, Path, Callable[[], object]]]  # the whole, where it lies, and its reader


def graph(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    whole = mase.quantize(
        mase.trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval(), x),
        {"default": {"weight": "int4c", "activation": "mxint6b4"}},
        calib=[x],
    )
    whole.save(folder)
    path = folder / "graph.json"
    return path.read_bytes(), path, lambda: mase.emulate(Graph.load(folder), x)


def design(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    formats = {"default": {"weight": "int4", "activation": "int8"}}
    made = mase.emit(mase.quantize(mase.trace(model, x), formats, calib=[x]), folder / "rtl")
    path = made.folder / "design.json"
    return path.read_bytes(), path, lambda: Design.load(made.folder).sources


def report(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    path = folder / "report.json"
    summary.dump(example(), path)
    return path.read_bytes(), path, lambda: summary.load(path)


def synthesised(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    some = Resources(3, 4, 0, 1)
    SynthResult("xcup", some, {"fc1": some}, {"LUT6": 3, "FDRE": 4}, 1.5, "yosys 0.5", "it said").save(folder)
    path = folder / "synth.json"
    return path.read_bytes(), path, lambda: f"{SynthResult.load(folder).resources.lut:.0f}"


def proof(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    pair = {"predicted": 7, "simulated": 7}
    edge = {"name": "x", "path": "x", "format": "int8", "elements": 8, "mismatches": 0}
    edge |= {"beats": 2, "stalled": 0, "idle": 1}
    data = {"design": "top", "samples": 2, "chunk": 2, "edges": [edge], "first": None, "late": None}
    data |= {"first_output": pair, "latency": pair, "interval": pair}
    path = folder / "proof.json"
    path.write_text(json.dumps({"proof": data, "lint_warnings": 0, "lint": []}))
    return path.read_bytes(), path, lambda: explain(flow.read_proof(path)[0])


def stages(folder: Path) -> tuple[bytes, Path, Callable[[], object]]:
    kept, path = Stages(folder, lambda name, what: None), folder / "stages.json"
    with kept.running("train", "0" * 32, ()):
        (folder / "a").touch()
    with kept.running("emit", "1" * 32, ("a",)):
        pass

    def read() -> object:
        again = Stages(folder, lambda name, what: None)
        return again.seconds, [again.fresh(name, "0" * 32) for name in ("train", "emit")]

    return path.read_bytes(), path, read


JSON_FILES = (graph, design, stages, report, synthesised, proof)


@pytest.mark.parametrize("make", JSON_FILES, ids=lambda make: make.__name__)
def test_json_with_damaged_bytes(make: Maker, tmp_path: Path) -> None:
    whole, path, read = make(tmp_path)
    assert held(read)
    for raw in bytes_of(whole, 1, CASES):
        path.write_bytes(raw)
        held(read)


@pytest.mark.parametrize("make", JSON_FILES, ids=lambda make: make.__name__)
def test_json_with_values_of_another_kind(make: Maker, tmp_path: Path) -> None:
    whole, path, read = make(tmp_path)
    for data in values_of(json.loads(whole), 2, CASES):
        path.write_text(json.dumps(data))
        held(read)


@pytest.mark.parametrize("make", JSON_FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 300 + "]" * 300,
        "9" * 5000,
        "NaN",
        '"\\ud800"',
        '{"a":1,"a":2}',
        "",
        "\x00",
    ],
    ids=["brackets", "braces", "deep", "digits", "NaN", "surrogate", "twice", "empty", "null"],
)
def test_json_that_is_not_a_document(make: Maker, text: str, tmp_path: Path) -> None:
    _, path, read = make(tmp_path)
    path.write_text(text)
    assert held(read) == (make is stages)  # stages that cannot be read are done again


def test_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    taken = 0
    for raw in bytes_of((configs_dir() / "quickstart.yaml").read_bytes(), 3, 120):
        path.write_bytes(raw)
        taken += held(lambda: config.dump(config.load(path)))
    assert 0 < taken < 120


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv"])
def test_a_file_of_samples(suffix: str, tmp_path: Path) -> None:
    path, x = tmp_path / f"x{suffix}", np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    if suffix == ".npy":
        np.save(path, x)
    elif suffix == ".npz":
        np.savez_compressed(path, x=x, y=x)
    elif suffix == ".csv":
        np.savetxt(path, x, delimiter=",")
    else:
        path.write_bytes(save({"x": torch.from_numpy(x)}))
    whole, taken = path.read_bytes(), 0
    assert held(lambda: load_samples(path, (6,)))
    for raw in bytes_of(whole, 4, CASES):
        path.write_bytes(raw)
        taken += held(lambda: load_samples(path, (6,)))
        if suffix == ".safetensors":
            held(lambda: check_safetensors(path))
    assert taken < CASES


def test_every_field_of_an_archive_of_arrays(tmp_path: Path) -> None:
    """Flip each bit of the directory of a .npz file: flags of encryption, ways to pack, sizes, checksums."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((2, 6), np.float32))
    whole = path.read_bytes()
    for at in [*range(64), *range(len(whole) - 110, len(whole))]:
        for bit in (0, 3, 6):
            raw = bytearray(whole)
            raw[at] ^= 1 << bit
            path.write_bytes(raw)
            held(lambda: load_samples(path, (6,)))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 6), ",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (((((((",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000000000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1000000000000, 1000000000000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 6), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 6), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (4, 6), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 6), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4, 6), }",
        "{'descr': 'x' * 9, 'fortran_order': 3, 'shape': '', }",
        "9" * 5000,
        "[" * 5000,
    ],
)
def test_the_header_of_an_array(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    head = header.encode().ljust(118) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(96))
    assert not held(lambda: load_samples(path, (6,)))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_idx(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    whole = bytes((0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 5)) + bytes(range(15))
    whole = gzip.compress(whole, mtime=0) if packed else whole
    path.write_bytes(whole)
    assert held(lambda: read_idx("mnist", path))
    for raw in bytes_of(whole, 5, CASES):
        path.write_bytes(raw)
        held(lambda: read_idx("mnist", path))
    path.write_bytes(bytes((0, 0, 8, 4)) + (0).to_bytes(4, "big") + b"\xff" * 12)
    assert not held(lambda: read_idx("mnist", path))


def test_a_table_of_jets_and_a_text(tmp_path: Path) -> None:
    from mase.data.jets import CLASSES, FEATURES

    path = tmp_path / "j.csv"
    rows = [",".join([*(f"{(i * 7 + k) % 11 / 4}" for k in range(16)), CLASSES[i % 5]]) for i in range(12)]
    whole = "\n".join([",".join((*FEATURES, "class")), *rows]).encode()
    path.write_bytes(whole)
    assert held(lambda: load_data("jets_openml", {"path": str(path)}))
    for raw in bytes_of(whole, 6, 80):
        path.write_bytes(raw)
        held(lambda: load_data("jets_openml", {"path": str(path)}))
        held(lambda: load_data("text", {"path": str(path), "window": 4}))


def test_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    Study.create(SMALL, OBJECTIVES, path, seed=5).optimize(bowl, 4, strategy="random")
    whole = path.read_bytes()
    assert held(lambda: Study.load(path).trials)
    for raw in bytes_of(whole, 7, 60):
        path.write_bytes(raw)
        held(lambda: Study.load(path).trials)
        held(lambda: Study.create(SMALL, OBJECTIVES, path, seed=5).trials)
    lines = whole.splitlines()
    for data in values_of([json.loads(line) for line in lines], 8, 60):
        path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in data))
        held(lambda: Study.load(path).trials)
    for code in (99, -1, None, "x", 4.5):
        first = {**json.loads(lines[0]), "op_code": code}
        path.write_bytes(b"\n".join([json.dumps(first).encode(), *lines[1:]]) + b"\n")
        assert not held(lambda: Study.load(path).trials)


def test_the_text_form_of_a_format() -> None:
    forms = [str(cls()).encode() for _, cls in FORMATS.items()]
    for i, form in enumerate(forms):
        for raw in bytes_of(form, i, 60):
            text = raw.decode("utf-8", "surrogateescape")
            if held(partial(parse, text)):
                assert str(parse(str(parse(text)))) == str(parse(text)) and text.isascii()
    for text in (
        "fixed٨.٤",
        "int\uff18",
        "mxint8b1_6",
        "e4m3b1_0",
        "codebook[1_0,20]",
        "codebook[nan,1]",
        "int" + "8" * 1900,
    ):
        assert not held(partial(parse, text))
