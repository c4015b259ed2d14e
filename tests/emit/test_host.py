"""The packer for hosts: the same codes, beats and reals as ours, in a process that has no mase."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emit import host
from emit.design import Edge, edge_json
from emit.verilog import emit
from mase.dataflow.stream import StreamType, Travel
from mase.formats import Code, QuantParams, parse
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network, corners

FORMATS = {  # lanes by format: rows of 7 elements, in two rows
    "fixed6.4": 3,
    "ufixed5.7": 2,
    "fixed16.-3": 1,
    "fixed8.4_floor": 7,
    "fixed8.4_up": 2,
    "fixed7.2_away": 2,
    "fixed7.2_ceil": 2,
    "fixed7.2_zero": 2,
    "int8": 4,
    "int5p": 5,
    "mxint5b4e3": 2,
    "mxint8b4": 8,
    "mxint4b2e2_floor": 4,
}


def edge(text: str, lanes: int) -> Edge:
    """Return an edge of two rows of seven elements, its parameters from data."""
    fmt = parse(text)
    params = fmt.calibrate(torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(3)))
    return Edge("x", "x", "s_x", (2, 7), StreamType(2, 7, lanes, fmt.grid(params, "x")), fmt, params)


def reals(ours: Edge) -> torch.Tensor:
    """Return values of every size, exact ties, infinities and zeros."""
    generator = torch.Generator().manual_seed(5)
    wide = torch.randn(60, 2, 7, generator=generator) * 2.0 ** torch.randint(-14, 14, (60, 1, 1), generator=generator)
    codes = corners(ours.stream, 20, generator)
    exponent = None if codes.exponent is None else codes.exponent.reshape(20, 2, -1)
    exact = ours.decode(Code(codes.mantissa, exponent))
    half = exact / 2 if ours.params.scale is None else exact + float(ours.params.scale) / 2
    special = torch.zeros(2, 2, 7)
    special[0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 1e30, -0.0])
    return torch.cat([wide, exact, half, special]).double()


@pytest.mark.parametrize(("text", "lanes"), FORMATS.items())
def test_the_host_agrees_with_us_to_the_bit(text: str, lanes: int) -> None:
    ours = edge(text, lanes)
    theirs = host.Edge.of(json.loads(json.dumps(edge_json(ours))))
    x = reals(ours)
    code = ours.encode(x)
    mantissa, exponent = theirs.encode(x.numpy())
    assert np.array_equal(mantissa, code.mantissa.numpy())
    assert (exponent is None) == (code.exponent is None)
    assert exponent is None or code.exponent is None or np.array_equal(exponent, code.exponent.numpy())
    beats = theirs.pack(mantissa, exponent)
    assert np.array_equal(beats, ours.stream.pack(code))
    assert np.array_equal(theirs.decode(mantissa, exponent), ours.decode(code).numpy())
    wider = theirs.pack(mantissa, exponent, 32)
    assert wider.shape[-1] == 32
    back = theirs.unpack(wider)
    assert np.array_equal(back[0], mantissa)
    assert exponent is None or np.array_equal(back[1], exponent)  # type: ignore[arg-type]


IMAGE, ORDER = (7, 2, 3), (1, 2, 0)  # channels travel fastest
OTHERS = ("fixed6.4", "int5", "int8a", "mxint5b4e3", "bfp6b4", "e4m3", "e5m2", "e3m4", "mxfp8e4m3b4", "mxfp4b4")
OTHERS += ("nvfp4b4", "nvfp4l1b2")


@pytest.mark.parametrize("text", OTHERS)
def test_the_host_reads_images_zero_points_and_bit_patterns(text: str) -> None:
    fmt = parse(text)
    x = torch.randn(6, *IMAGE, generator=torch.Generator().manual_seed(4)) + 0.5
    params = replace(fmt.calibrate(x), axis=1)
    stream = Travel(IMAGE, ORDER).stream(2, fmt.grid(params, "x"))
    ours = Edge("x", "x", "s_x", IMAGE, stream, fmt, params)
    theirs = host.Edge.of(json.loads(json.dumps(edge_json(ours))))
    code = ours.encode(x)
    exponent = None if code.exponent is None else code.exponent.numpy()
    beats = theirs.pack(code.mantissa.numpy(), exponent)
    assert np.array_equal(beats, stream.pack(code))
    back = theirs.unpack(beats)
    assert np.array_equal(back[0], code.mantissa.numpy())
    assert (back[1] is None) == (exponent is None)
    assert exponent is None or np.array_equal(back[1], exponent)  # type: ignore[arg-type]
    assert np.array_equal(theirs.decode(*back), ours.decode(code).numpy())
    assert torch.equal(ours.shaped(stream.unpack(beats)).mantissa, code.mantissa)
    if theirs.rounding is not None:
        mantissa, blocks = theirs.encode(x.numpy())
        assert np.array_equal(mantissa, code.mantissa.numpy())
        assert blocks is None or np.array_equal(blocks, exponent)  # type: ignore[arg-type]
    several = stream.grid.pattern is not None or stream.grid.rise is not None
    assert (theirs.rounding is None) == several
    element = 5 * 6 + 1 * 3 + 2  # channel 5 of the last pixel
    assert ours.beat(element) == (5 * 4) + 5 // 2


@pytest.mark.parametrize("tensor", [2.0**-121, 1.2345678 * 2.0**-121, 1.7 * 2.0**-120, 0.0117])
def test_the_host_reads_scales_near_the_least_float32(tensor: float) -> None:
    """Steps that are subnormal are rounded once, before the element multiplies."""
    fmt = parse("nvfp4b4")
    params = QuantParams(scale=torch.tensor(tensor, dtype=torch.float32).double(), axis=-1)
    stream = Travel((64,), (0,)).stream(4, fmt.grid(params, "x"))
    ours = Edge("x", "x", "s_x", (64,), stream, fmt, params)
    theirs = host.Edge.of(json.loads(json.dumps(edge_json(ours))))
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(50, 64, generator=draws) * tensor * 2.0 ** torch.randint(-8, 8, (50, 1), generator=draws)
    code = ours.encode(x)
    assert code.exponent is not None
    assert np.array_equal(theirs.decode(code.mantissa.numpy(), code.exponent.numpy()), ours.decode(code).numpy())


def test_what_only_we_can_round_is_refused() -> None:
    x = np.zeros((1, 2, 7))
    theirs = host.Edge.of(edge_json(edge("fixed6.4_stochastic", 2)))
    with pytest.raises(ValueError, match=r"fixed6.4_stochastic: its rounding needs mase; encode there"):
        theirs.encode(x)
    with pytest.raises(ValueError, match=r"the data hold NaN; NaN has no code"):
        host.Edge.of(edge_json(edge("fixed6.4", 2))).encode(x + np.nan)
    blocks = host.Edge.of(edge_json(edge("mxint5b4e3", 2)))
    for call in (blocks.pack, blocks.decode):
        with pytest.raises(ValueError, match=r"mxint5b4e3 has exponents; found none"):
            call(np.zeros((1, 2, 7), np.int64))


def test_the_file_imports_nothing_but_numpy_and_the_standard_library() -> None:
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(host))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - {"__future__"} - sys.stdlib_module_names == {"numpy"}


SCRIPT = """
import importlib.util, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from host import Edge
assert importlib.util.find_spec("mase") is None and importlib.util.find_spec("torch") is None
feed, give = Edge.load(sys.argv[1] + "/design.json")
for edge, name in ((feed, "input"), (give, "output")):
    lines = open(f"{sys.argv[1]}/vectors/{name}.hex").read().split()
    raw = np.array([list(bytes.fromhex(line))[::-1] for line in lines], np.uint8)
    raw = raw.reshape(-1, edge.beats, edge.beat_bytes)
    codes = edge.unpack(raw)
    assert np.array_equal(edge.pack(*codes), raw)
    np.save(f"{sys.argv[2]}/{name}.npy", edge.decode(*codes))
print(len(raw))
"""


def test_a_process_without_mase_reads_the_vectors_as_we_do(tmp_path: Path) -> None:
    network = Network(
        "host",
        [torch.nn.Linear(5, 3)],
        torch.randn(6, 2, 5),
        "fixed5.3",
        {"0": NodeFormats("int4", output="mxint4b2e3")},
        {"0": Folding(3, 2)},
    )
    design = emit(network.case().graph, tmp_path / "design", "host")
    (tmp_path / "numpy").symlink_to(Path(np.__file__).parent)
    libraries = Path(np.__file__).parents[1] / "numpy.libs"
    if libraries.is_dir():
        (tmp_path / "numpy.libs").symlink_to(libraries)
    arguments = [str(design.folder), str(tmp_path)]
    command = [sys.executable, "-S", "-c", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
    for side, name in ((design.input, "input"), (design.output, "output")):
        lines = (design.folder / "vectors" / f"{name}.hex").read_text().split()
        raw = np.array([list(bytes.fromhex(line))[::-1] for line in lines], np.uint8)
        expected = side.decode(side.stream.unpack(raw.reshape(-1, side.stream.beats, side.stream.bytes)))
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected.numpy())


def test_parameters_of_an_edge_are_all_in_the_file() -> None:
    found = edge_json(edge("mxint5b4e3", 2))
    assert {"block": 4, "exp_bits": 3, "exp_span": 7, "low": -15, "high": 15}.items() <= found.items()
    assert found["unit"] == found["exp_base"] - 3
    assert edge_json(edge("fixed6.4", 3))["unit"] == -4


def test_a_file_of_an_earlier_version_is_read() -> None:
    entry = edge_json(edge("mxint5b4e3", 2))
    assert entry.pop("scales") is None
    assert host.Edge.of(entry).scales is None
