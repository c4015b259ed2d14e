"""Exports: what other tools load is what was packed, bit for bit; what they cannot hold is refused with the reason."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mase.cli import call
from mase.errors import ConfigError, GraphError
from mase.formats import parse
from mase.formats.packed import PackedWeight, Piece
from mase.models.huggingface import optional, quiet
from passes.ptq.export import compressed_tensors, gguf, gptq
from passes.ptq.export.affine import affine, from_words, words
from passes.ptq.export.base import EXPORTS, RECORD, UnheldError, check, export
from passes.ptq.folder import Job, Quantized, load, quantize_folder
from passes.ptq.recipe import Plan
from tests.ptq.folders import write

Change = Callable[[Path], None]
NO_PACKAGE = "needs pip install mase-dse[dev]"
SKIP = ["model.layers.1.self_attn.k_proj"]


def drawn(rows: int = 64, columns: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def packed(text: str, **shape: int) -> PackedWeight:
    return PackedWeight.of(drawn(**shape), parse(text))


def folder(at: Path, recipe: object, kind: str = "wide", overrides: dict[str, Any] | None = None) -> Path:
    """A quantized folder, whose weights a test may read from `at/q`."""
    write(at / "s", kind)
    skip = SKIP if kind == "wide" else []
    quantize_folder(Job(at / "s", at / "q", Plan.of(recipe, overrides, skip=skip)))
    return at / "q"


def dense(at: Path) -> dict[str, Tensor]:
    opened = Quantized.opened(at)
    return {
        path: layer.weight.dense()
        for number in range(opened.made.total)
        for path, layer in opened.stored(number).layers.items()
    }


# -- layouts on their own ----------------------------------------------------------------------------------------------

HELD = [
    ("compressed_tensors", "int4g32a", "pack-quantized, int4 group 32, zero points"),
    ("compressed_tensors", "int4g32f_fp16", "pack-quantized, int4 group 32"),
    ("compressed_tensors", "int8c_bf16", "pack-quantized, int8 channel"),
    ("compressed_tensors", "int3g32a_fp16", "pack-quantized, int3 group 32, zero points"),
    ("compressed_tensors", "int5", "pack-quantized, int5 channel"),
    ("compressed_tensors", "mxint6b16", "pack-quantized, int6 group 16"),
    ("compressed_tensors", "bfp4b32", "pack-quantized, int4 group 32"),
    ("compressed_tensors", "mxfp4", "mxfp4-pack-quantized, float4 group 32"),
    ("compressed_tensors", "mxfp8e4m3", "mxfp8-quantized, float8 group 32"),
    ("compressed_tensors", "nvfp4", "nvfp4-pack-quantized, float4 group 16"),
    ("gptq", "int4g32f_fp16", "4 bits, group 32"),
    ("gptq", "int4g32a_fp16", "4 bits, group 32, zero points"),
    ("gptq", "int3g64f_fp16", "3 bits, group 64"),
    ("gptq", "int2g32a_fp16", "2 bits, group 32, zero points"),
    ("gptq", "int8c_fp16", "8 bits, an output"),
    ("gguf", "int4g32f_fp16", "Q4_0"),
    ("gguf", "int4g32a_fp16", "Q5_0"),
    ("gguf", "int4g32r_fp16", "Q4_1"),
    ("gguf", "int5g96f_fp16", "Q5_0"),
    ("gguf", "int5g32r_fp16", "Q5_1"),
    ("gguf", "int6c_fp16", "Q8_0"),
    ("gguf", "mxint8", "Q8_0"),
    ("gguf", "mxfp4", "MXFP4"),
]


@pytest.mark.parametrize(("to", "text", "becomes"), HELD)
def test_a_weight_is_held(to: str, text: str, becomes: str) -> None:
    assert EXPORTS[to]().held(packed(text)) == becomes


REFUSED = [
    ("compressed_tensors", "int4g32r", "real offsets"),
    ("compressed_tensors", "int4g64a", "groups of 64 in 96 inputs, the last one short"),
    ("compressed_tensors", "int9g32", "integers of 9 bits"),
    ("compressed_tensors", "nf4", "format nf4"),
    ("compressed_tensors", "mxfp4b16", "blocks of 32 along the inputs"),
    ("compressed_tensors", "mxfp6e3m2", "mxfp4 and mxfp8e4m3 are held"),
    ("gptq", "int4g32a", "scales in short; scales in fp16 are held"),
    ("gptq", "int5g32_fp16", "integers of 5 bits; 2, 3, 4, 8 bits are held"),
    ("gptq", "int4g32r_fp16", "real offsets"),
    ("gptq", "mxfp4", "format mxfp4"),
    ("gptq", "ternaryc", "format ternaryc"),
    ("gguf", "int4g48_fp16", "groups of 48; multiples of 32 are held"),
    ("gguf", "int4g32", "scales in short"),
    ("gguf", "int8g32r_fp16", "real offsets with 8 bits"),
    ("gguf", "int8g32a_fp16", "codes less zero points of"),
    ("gguf", "nvfp4", "format nvfp4"),
]


@pytest.mark.parametrize(("to", "text", "says"), REFUSED)
def test_what_a_layout_cannot_hold_is_said(to: str, text: str, says: str) -> None:
    with pytest.raises(UnheldError, match=says):
        EXPORTS[to]().held(packed(text))


def test_shapes_that_layouts_do_not_have() -> None:
    with pytest.raises(UnheldError, match="64 x 80 weights; outputs and inputs that 32 divides"):
        EXPORTS["gptq"]().held(packed("int4g16_fp16", columns=80))
    with pytest.raises(UnheldError, match="80 inputs; a number that 32 divides"):
        EXPORTS["gguf"]().held(packed("int4c_fp16", columns=80))


@pytest.mark.parametrize("to", sorted(EXPORTS))
def test_more_than_a_matrix_in_one_format_is_refused(to: str) -> None:
    from dataclasses import replace

    from mase.formats.turn import Turn

    one = packed("int4g32f_fp16")
    piece = one.pieces[0]
    held = EXPORTS[to]().held
    assert held(one)
    with pytest.raises(UnheldError, match="a low-rank branch"):
        held(replace(one, branch=(packed("int8", rows=4), packed("int8", columns=4))))
    with pytest.raises(UnheldError, match=r"2 pieces \(int4g32f_fp16\)"):
        held(replace(one, pieces=(piece, piece)))
    with pytest.raises(UnheldError, match="under a mask"):
        held(replace(one, pieces=(replace(piece, mask=torch.ones(64, 96, dtype=torch.bool)),)))
    with pytest.raises(UnheldError, match="turned"):
        held(replace(one, turn=Turn(0, torch.ones(96, dtype=torch.float64))))


def ordered() -> PackedWeight:
    """Groups along columns in an order of their own, as GPTQ with act-order has them."""
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1))
    piece = Piece.of(drawn()[:, order], parse("int4g32a_fp16"), columns=order)
    return PackedWeight((64, 96), (piece,))


def test_columns_out_of_order_are_an_index_of_groups_in_gptq_alone() -> None:
    weight = ordered()
    scheme, tensors = gptq._encoded(affine(weight))
    assert scheme.ordered and not torch.equal(tensors["g_idx"], tensors["g_idx"].sort().values)
    assert torch.equal(gptq.decoded(tensors, 4), weight.dense().half())
    for to in ("compressed_tensors", "gguf"):
        with pytest.raises(UnheldError, match="columns out of order"):
            EXPORTS[to]().held(weight)


def test_a_short_last_group_is_held_by_gptq() -> None:
    weight = packed("int4g64a_fp16")
    tensors = gptq._encoded(affine(weight))[1]
    assert tensors["scales"].shape == (2, 64) and tensors["g_idx"].bincount().tolist() == [64, 32]
    assert torch.equal(gptq.decoded(tensors, 4), weight.dense().half())


def test_a_zero_point_of_0_moves_the_codes_or_is_refused() -> None:
    full = drawn().abs()  # the least value is 0, so that all codes are used
    weight = PackedWeight.of(full, parse("int4g32a_fp16"))
    with pytest.raises(UnheldError, match="a zero point of 0, which is stored less one"):
        EXPORTS["gptq"]().held(weight)
    assert EXPORTS["compressed_tensors"]().held(weight)
    empty = drawn()
    empty[3] = 0.0
    weight = PackedWeight.of(empty, parse("int4g32a_fp16"))
    tensors = gptq._encoded(affine(weight))[1]
    assert torch.equal(gptq.decoded(tensors, 4), weight.dense().half())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_words_are_those_of_the_other_package(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers", reason=NO_PACKAGE)
    values = torch.randint(0, 1 << bits, (5, 77), generator=torch.Generator().manual_seed(0))
    other = helpers.pack_to_int32((values - (1 << bits - 1)).to(torch.int8), bits)
    assert torch.equal(words(values, bits), other)
    assert torch.equal(from_words(other, bits, 77), values)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_by_hand(bits: int) -> None:
    weight = packed(f"int{bits}g32f_fp16", rows=32, columns=64)
    tensors = gptq._encoded(affine(weight))[1]

    def number(column: list[int], at: int) -> int:
        whole = sum((word & 0xFFFFFFFF) << 32 * i for i, word in enumerate(column))
        return whole >> at * bits & (1 << bits) - 1

    for row, column in [(0, 0), (31, 63), (7, 31), (8, 32), (5, 10), (20, 21)]:
        q = number(tensors["qweight"][:, row].tolist(), column)
        group = int(tensors["g_idx"][column])
        zero = number(tensors["qzeros"][group].tolist(), row) + 1
        value = torch.tensor(float(q - zero)).half() * tensors["scales"][group, row]
        assert value == weight.dense()[row, column].half()


@pytest.mark.parametrize("text", ["int4g32a", "int8c_fp16", "mxfp4", "mxfp8e4m3", "nvfp4", "mxint8"])
def test_our_reading_of_compressed_tensors_is_that_of_the_package(text: str) -> None:
    pytest.importorskip("compressed_tensors", reason=NO_PACKAGE)
    scheme, tensors = compressed_tensors._encoded(packed(text))
    ours, theirs = compressed_tensors.decoded(scheme, tensors), compressed_tensors._loaded(scheme, tensors, "here")
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert torch.equal(theirs, packed(text).dense().to(theirs.dtype))


@pytest.mark.parametrize("seed", range(20))
def test_nvfp4_scales_are_divided_by_a_float_that_fits(seed: int) -> None:
    weight = PackedWeight.of(drawn(seed=seed) * 3.7**seed, parse("nvfp4"))
    scheme, tensors = compressed_tensors._encoded(weight)
    assert torch.equal(compressed_tensors.decoded(scheme, tensors), weight.dense().bfloat16())


@pytest.mark.parametrize("text", [text for to, text, _ in HELD if to == "gguf"])
def test_gguf_decodes_to_what_is_packed(text: str) -> None:
    library = pytest.importorskip("gguf", reason="needs pip install mase-dse[hf]")
    weight = packed(text)
    found = gguf._encoded(weight, torch.arange(64))
    values = library.dequantize(found.data.numpy(), library.GGMLQuantizationType[found.type])
    assert torch.equal(torch.from_numpy(values), weight.dense())


# -- folders -----------------------------------------------------------------------------------------------------------

MIXED = {"*.down_proj": {"format": "int8g32_fp16"}}


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf"])
def test_transformers_loads_an_export_as_the_packed_model(to: str, tmp_path: Path) -> None:
    """By its own loader, and the logits are those of the graph up to the order of sums."""
    if to == "compressed-tensors":
        pytest.importorskip("compressed_tensors", reason=NO_PACKAGE)
    source = folder(tmp_path, [{"rtn": {"format": "int4g32f_fp16" if to == "gguf" else "int4g32f"}}])
    export(source, to, tmp_path / "x")
    library = optional("transformers", "hf")
    options = {"gguf_file": "model.gguf"} if to == "gguf" else {}
    with quiet():
        model = library.AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float32, **options).eval()
        tokens = torch.randint(0, 150, (2, 16), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = model(tokens).logits
    graph = load(source)
    torch.testing.assert_close(logits, graph(tokens), atol=1e-5, rtol=1e-5)  # sums in another order
    for path, weight in dense(source).items():
        assert torch.equal(model.get_submodule(path).weight, weight), path


@pytest.mark.parametrize("to", sorted(EXPORTS))
def test_a_folder_is_exported_and_checked(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path, [{"rtn": {"format": "int4g32f_fp16"}}], overrides=MIXED)
    name = to.replace("_", "-")
    assert call(["ptq", "export", str(source), "--to", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layers"] == 13 and told["folder"] == str(tmp_path / f"q-{name}")
    assert call(["ptq", "check", told["folder"]]) == 0
    assert "13 of 13 matrices are as packed" in capsys.readouterr().out
    again = tmp_path / "again"
    export(source, to, again)
    for path in sorted(Path(told["folder"]).iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_configuration_says_what_differs(tmp_path: Path) -> None:
    source = folder(tmp_path, [{"rtn": {"format": "int4g32f_fp16"}}], overrides=MIXED)
    export(source, "gptq", tmp_path / "g")
    told = json.loads((tmp_path / "g/config.json").read_text())["quantization_config"]
    assert (told["bits"], told["group_size"], told["sym"], told["desc_act"]) == (4, 32, True, False)
    assert told["checkpoint_format"] == "gptq" and not told["lm_head"]
    assert told["dynamic"][r"+:^model\.layers\.1\.mlp\.down_proj$"]["bits"] == 8
    assert told["dynamic"][r"-:^model\.layers\.1\.self_attn\.k_proj$"] == {}
    export(source, "compressed_tensors", tmp_path / "c")
    told = json.loads((tmp_path / "c/config.json").read_text())["quantization_config"]
    assert told["ignore"] == ["lm_head", *SKIP]
    groups = [(len(g["targets"]), g["weights"]["num_bits"]) for g in told["config_groups"].values()]
    assert sorted(groups) == [(2, 8), (11, 4)]


@pytest.mark.parametrize("to", ["compressed-tensors", "gptq"])
def test_experts_have_the_names_of_their_model(to: str, tmp_path: Path) -> None:
    write(tmp_path / "s", "mixtral_wide")
    plan = Plan.of([{"rtn": {"format": "int4g32a_fp16"}}])
    quantize_folder(Job(tmp_path / "s", tmp_path / "q", plan))
    report = export(tmp_path / "q", to, tmp_path / "x")
    found = {k: x for path in (tmp_path / "x").glob("*.safetensors") for k, x in load_file(path).items()}
    mark = "qweight" if to == "gptq" else "weight_packed"
    names = sorted(key for key in found if key.endswith(mark))
    assert f"model.layers.1.block_sparse_moe.experts.3.w3.{mark}" in names and len(names) == report.layers
    assert "model.layers.1.block_sparse_moe.gate.weight" in found
    assert check(tmp_path / "x").ok
    (joined,) = (x for path, x in dense(tmp_path / "q").items() if "layers.1." in path and "gate_up[3]" in path)
    values = dict(EXPORTS[to.replace("-", "_")]().tensors(tmp_path / "x"))
    halves = [values[f"model.layers.1.block_sparse_moe.experts.3.{name}"] for name in ("w1", "w3")]
    assert torch.equal(torch.cat(halves), joined.to(halves[0].dtype))


@pytest.mark.parametrize("to", ["compressed-tensors", "gptq"])
def test_experts_in_float_have_the_names_of_their_model(to: str, tmp_path: Path) -> None:
    """A stack of which one expert stays in float, and whole stacks that do."""
    write(tmp_path / "s", "mixtral_wide")
    skip = ["model.layers.0.mlp.down[0]", "model.layers.0.mlp.gate_up[1]", "model.layers.1.mlp.*"]
    plan = Plan.of([{"rtn": {"format": "int4g32f_fp16"}}], skip=skip)
    quantize_folder(Job(tmp_path / "s", tmp_path / "q", plan))
    export(tmp_path / "q", to, tmp_path / "x")
    before = {k: x for path in (tmp_path / "s").glob("*.safetensors") for k, x in load_file(path).items()}
    found = {k: x for path in (tmp_path / "x").glob("*.safetensors") for k, x in load_file(path).items()}
    mark = ".qweight" if to == "gptq" else ".weight_packed"
    packed_names = {key.removesuffix(mark) for key in found if key.endswith(mark)}
    floats = {key for key in found if key.rpartition(".")[0] not in packed_names}
    assert floats | {f"{name}.weight" for name in packed_names} == before.keys()  # neither more nor fewer
    assert all(torch.equal(found[key], before[key]) for key in floats)
    experts = "model.layers.0.block_sparse_moe.experts"
    spared = {key.removesuffix(".weight") for key in floats if "block_sparse_moe" in key}
    assert {f"{experts}.0.w2", f"{experts}.1.w1", f"{experts}.1.w3", "model.layers.1.block_sparse_moe.gate"} <= spared
    assert len(spared) == 3 + 12 + 2
    told = json.loads((tmp_path / "x/config.json").read_text())["quantization_config"]
    if to == "gptq":
        assert {name.replace("\\", "")[3:-1] for name in told["dynamic"]} == spared
    else:
        assert set(told["ignore"]) == {*spared, "lm_head"} and len(told["ignore"]) == len(spared) + 1
    assert check(tmp_path / "x").ok


def test_tied_embeddings_are_there_once(tmp_path: Path) -> None:
    source = folder(tmp_path, [{"rtn": {"format": "int4g16a"}}], "tied")
    export(source, "compressed-tensors", tmp_path / "x")
    index = json.loads((tmp_path / "x/model.safetensors.index.json").read_text())["weight_map"]
    assert "model.embed_tokens.weight" in index and not any("lm_head" in key for key in index)
    assert check(tmp_path / "x").ok


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_refusal_names_layers_and_writes_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path, [{"rtn": {"format": "int4g32_fp16"}}], overrides={"*.v_proj": {"format": "nf4"}})
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ConfigError) as fault:
        export(source, "gptq", tmp_path / "x")
    assert "cannot hold 2 of 13 layers: format nf4" in str(fault.value)
    assert "(model.layers.0.self_attn.v_proj, model.layers.1.self_attn.v_proj)" in str(fault.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_models_that_gguf_has_no_place_for(tmp_path: Path) -> None:
    write(tmp_path / "s", "gpt2")
    quantize_folder(Job(tmp_path / "s", tmp_path / "q", Plan.of([{"rtn": {"format": "int4g32_fp16"}}])))
    with pytest.raises(ConfigError, match="the model is 'gpt2'; allowed are llama, mistral, qwen2, qwen3"):
        export(tmp_path / "q", "gguf", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"a Conv1D, whose weights are \[inputs, outputs\]"):
        export(tmp_path / "q", "gptq", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("exported")
    source = folder(at, [{"rtn": {"format": "int4g32f_fp16"}}])
    for to in EXPORTS:
        export(source, to, at / to)
    return at


def test_a_target_that_is_not_empty(exported: Path) -> None:
    with pytest.raises(ConfigError, match="is there already; give a folder that is empty or does not exist"):
        export(exported / "q", "gptq", exported / "gguf")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["q"], "needs a folder and a layout; allowed is export FOLDER --to, one of compressed-tensors, gguf, gptq"),
        (["q", "--to", "gptk"], "layout: unknown name 'gptk'; did you mean gptq?"),
        (["s", "--to", "gptq"], "this is not a quantized folder"),
        (["q", "--to", "../x"], "layout: unknown name '../x'; allowed: compressed-tensors, gguf"),
        (["/", "--to", "gptq"], "this is not a quantized folder"),
    ],
)
def test_commands_say_what_is_wrong(
    exported: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["ptq", "export", str(exported / arguments[0]), *arguments[1:]]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_the_folder_may_be_the_one_that_one_is_in(exported: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(exported / "q", tmp_path / "q")
    monkeypatch.chdir(tmp_path / "q")
    assert call(["ptq", "export", ".", "--to", "gptq"]) == 0
    assert check(tmp_path / "q-gptq").ok


def test_what_a_killed_export_left_goes_away(exported: Path, tmp_path: Path) -> None:
    left = tmp_path / ".x.mase_export"
    left.mkdir()
    (left / "model-00009.safetensors").write_bytes(b"half")
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another process is writing this folder"):
        export(exported / "q", "gptq", tmp_path / "x")
    os.close(lock)
    export(exported / "q", "gptq", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    names = sorted(path.name for path in (exported / "gptq").iterdir())
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == names


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        ([], "this is not a tokenizer"),
        ({"model": "x"}, "this is not a tokenizer"),
        ({"model": {"type": "BPE"}}, "model: vocab"),
        ({"model": {**BPE, "vocab": {"a": 0, "b": "1"}}}, "model: vocab"),
        ({"model": {**BPE, "merges": [["a"]]}}, "model: merges"),
        ({"model": BPE, "added_tokens": [{"content": "c"}]}, "added_tokens: .*id"),
        ({"model": BPE, "added_tokens": [{"content": "c", "id": 5}]}, "ids of its 3 tokens are not 0 to 2"),
    ],
)
def test_damaged_tokenizers(exported: Path, tokenizer: Any, says: str, tmp_path: Path) -> None:
    shutil.copytree(exported / "q", tmp_path / "q")
    data = {**tokenizer, "pre_tokenizer": "ByteLevel"} if isinstance(tokenizer, dict) else tokenizer
    (tmp_path / "q/tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(GraphError, match=says):
        export(tmp_path / "q", "gguf", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_gguf_has_no_place_for_float64(tmp_path: Path) -> None:
    write(tmp_path / "s", "wide", torch.float64, num_hidden_layers=1)
    quantize_folder(Job(tmp_path / "s", tmp_path / "q", Plan.of([{"rtn": {"format": "int4g32f_fp16"}}])))
    with pytest.raises(ConfigError, match="is float64; allowed are float32, float16, bfloat16"):
        export(tmp_path / "q", "gguf", tmp_path / "x")


def flip(tensors: dict[str, Tensor]) -> None:
    next(x for key, x in tensors.items() if "qweight" in key).view(-1)[0].bitwise_xor_(1)


def off(tensors: dict[str, Tensor]) -> None:
    next(x for key, x in tensors.items() if "norm.weight" in key).view(-1)[0].add_(1)


def far(tensors: dict[str, Tensor]) -> None:
    next(x for key, x in tensors.items() if "g_idx" in key).fill_(1000)


def without(at: Path) -> None:
    """Take a tensor in float out of both its file and the index."""
    key = "model.norm.weight"
    edited(key, lambda tensors: tensors.pop(key) is None)(at)
    index = json.loads((at / "model.safetensors.index.json").read_text())
    del index["weight_map"][key]
    (at / "model.safetensors.index.json").write_text(json.dumps(index))


NO_LAYOUT = '{"schema": 1, "to": "x", "layers": {}, "floats": {}}'


def dynamic(value: object) -> Change:
    def edit(at: Path) -> None:
        config = json.loads((at / "config.json").read_text())
        config["quantization_config"]["dynamic"] = value
        (at / "config.json").write_text(json.dumps(config))

    return edit


def edited(name: str, change: Callable[[dict[str, Tensor]], None]) -> Change:
    def edit(at: Path) -> None:
        path = next(p for p in sorted(at.glob("*.safetensors")) if any(k.endswith(name) for k in load_file(p)))
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return edit


@pytest.mark.parametrize(
    ("to", "change", "says"),
    [
        ("gptq", edited("qweight", flip), ""),
        ("gptq", edited("norm.weight", off), ""),
        ("compressed_tensors", without, ""),
        ("gptq", edited("g_idx", far), "corrupt: cannot be decoded: index"),
        ("gptq", dynamic([1]), "dynamic is not an object"),
        ("gptq", dynamic({r"+:^model\.layers\.0\.mlp\.up_proj$": {"bits": 5}}), "bits are 5; allowed are 2, 3, 4, 8"),
        ("gptq", edited("qweight", lambda t: t.pop(next(k for k in t if "scales" in k)) is None), "holds no tensor"),
        ("compressed_tensors", lambda at: (at / "model-00002.safetensors").write_bytes(b"x"), "not a safetensors file"),
        ("compressed_tensors", lambda at: (at / "config.json").write_text("{}"), "has no quantization_config"),
        ("gguf", lambda at: (at / "model.gguf").write_bytes(b"GGUF"), "this is not a GGUF file"),
        (
            "gguf",
            lambda at: (at / RECORD).write_text(NO_LAYOUT),
            "names the layout 'x'",
        ),
    ],
)
def test_damage_is_found(exported: Path, to: str, change: Change, says: str, tmp_path: Path) -> None:
    shutil.copytree(exported / to, tmp_path / "x")
    change(tmp_path / "x")
    if says:
        with pytest.raises(GraphError, match=says):
            check(tmp_path / "x")
    else:
        found = check(tmp_path / "x")
        assert not found.ok and len(found.differ) + len(found.floats) == 1
        assert call(["ptq", "check", str(tmp_path / "x")]) == 1


def test_a_foreign_pattern_is_not_run(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "gptq", tmp_path / "x")
    dynamic({"+:(": {"bits": 8}, "+:.*": {"bits": 8}})(tmp_path / "x")
    assert check(tmp_path / "x").ok


def test_without_the_package_our_reading_checks(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed_tensors, "_package", lambda: None)
    found = check(exported / "compressed_tensors")
    assert found.ok and found.loader == "our reading of compressed-tensors"
