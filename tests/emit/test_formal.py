"""Every block that stores beats is proven, a broken block is not, and what goes wrong is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from emit import formal, tools
from emit.formal import Proof, main, prove
from mase.errors import ConfigError, ToolError
from mase.paths import hw_dir

COMMON = hw_dir() / "common"
BROKEN = {  # block and task, what is replaced by what
    "a FIFO that takes one beat too many": ("mase_fifo.depth5", "count_q != CountWidth'(Depth)", "!(&count_q)"),
    "a FIFO that counts wrong": ("mase_fifo.depth2", "if (push && !pop) count_q", "if (push) count_q"),
    "a FIFO that turns its order": ("mase_fifo.depth2", "memory_q[read_q];", "memory_q[write_q];"),
    "a slice that loses a beat": ("mase_skid_buffer.width4", "in_ready_o ? in_data_i : skid_q", "in_data_i"),
    "a slice that withdraws an offer": ("mase_skid_buffer.width4", "end else if (in_valid_i) begin", "end else begin"),
    "a credit too many": (
        "mase_credit_fifo.depth2",
        "free_q <= CountWidth'(Depth);",
        "free_q <= CountWidth'(Depth + 1);",
    ),
    "a credit returned twice": ("mase_credit_fifo.depth2", "if (pop && !take_i) free_q", "if (pop) free_q"),
    "units in the wrong lane": ("mase_width_converter.narrow", "(unit+OutUnits)", "(unit+OutUnits-1)"),
    "a tail that is not zero": (
        "mase_width_converter.three_to_two",
        "out_row_end ? {(OutWidth - TailWidth) {1'b0}} : ",
        "",
    ),
    "a wrong last": ("mase_width_converter.same", "row_q == RowWidth'(Rows - 1)", "row_q == '0"),
    "a frame that is filled too far": ("mase_stream_resync.beats5", "&& !at_last && (filling_q", "&& (filling_q"),
    "a rest that is not dropped": (
        "mase_stream_resync.beats2",
        "!filling_q && !in_last_i;",
        "!filling_q && in_last_i;",
    ),
    "a bad beat that is forgotten": (
        "mase_stream_resync.beats5",
        "(filling_q || bad_q || wrong)",
        "(filling_q || wrong)",
    ),
    "a packet that is left open": ("mase_stream_finish.beats5", "(filling_q || flush_i)", "filling_q"),
    "a flush that fills behind a whole packet": ("mase_stream_finish.beats5", "beat_d != '0;", "beat_q != '0;"),
    "a beat lost while a packet is filled": ("mase_stream_finish.beats2", "out_ready_i && !filling_q", "out_ready_i"),
    "a fork that does not wait for its second reader": ("mase_fork.least", "credit_a && credit_b", "credit_a"),
    "a fork with a wrong last": ("mase_fork.deep_b", "beat_q == BeatWidth'(Beats - 1)", "beat_q == '0"),
    "a fork that gives a beat once": ("mase_fork.deep_a", ".push_i     (fire)", ".push_i     (fire && !last)"),
    "a side that takes a beat too many": ("mase_concat.turns", ": BeatWidth'(BeatsA - 1))", ": BeatWidth'(BeatsA))"),
    "a side that does not wait for its turn": ("mase_concat.least", "credit && side_q;", "credit;"),
    "a word read before it came": ("mase_reorder.transpose", "full_q[leave_q] && credit", "credit"),
    "a bank filled while it is read": ("mase_reorder.back", "!full_q[fill_q]", "1'b1"),
    "a loop that does not begin again": ("mase_reorder.again", "if (end3) count2_q", "if (end4) count2_q"),
    "a cut that forgets its step": ("mase_slice.every_third", "next_q + SizeWidth'(Step)", "next_q + SizeWidth'(1)"),
    "a beat that counts and is dropped": ("mase_slice.rows", "credit || !keep", "1'b1"),
    "a border that takes a beat": (
        "mase_pad.around",
        "image_row < RowWidth'(Height)",
        "image_row <= RowWidth'(Height)",
    ),
    "a border in the lanes of the tail": ("mase_pad.around", "(i < Tail || !beat_last)", "(i < Lanes)"),
    "an exponent in the tail": ("mase_pad.blocks", "(i < TailExps || !beat_last)", "(i < Exps)"),
    "a frame before its image": ("mase_pad.blocks", "!(in_image || first)", "!in_image"),
    "a window before its last word": ("mase_window.least", ">= LevelWidth'(Span)", ">= LevelWidth'(Span - 1)"),
    "a word that a window still needs": ("mase_window.stride", "level_q < LevelWidth'(Depth)", "1'b1"),
    "a group that begins one word late": ("mase_window.groups", "around(1 - Far)", "around(2 - Far)"),
    "an image that is left too early": ("mase_window.far", ": LevelWidth'(NextImage);", ": LevelWidth'(NextRow);"),
    "a packet that another one enters": ("mase_arbiter.least", "open_q <= !last;", "open_q <= 1'b0;"),
    "a side that is passed over again": ("mase_arbiter.deep", "side_q <= side;", "side_q <= 1'b1;"),
    "two sides at once": ("mase_arbiter.wide", "(side_q || !b_valid_i)", "1'b1"),
    "a row that is read after it was dropped": ("mase_cache.ring", "full_q ? write_next : '0", "'0"),
    "a row that is read before it came": ("mase_cache.whole", "in_ready_o = !give_q", "in_ready_o = 1'b1"),
    "a row of the sample before": ("mase_cache.whole", "read_q == newest_q;", "read_q == write_next;"),
    "a root that is not reached": ("mase_root.square", "added <= rest", "added < rest"),
    "a root beyond its bits": ("mase_root.line", " && !above;", ";"),
    "a root that forgets its square": ("mase_root.bounded", "(twice >> 1)", "twice"),
    "a tail that is kept": ("mase_width_converter.drop", "(DropTail != 0 && out_row_end) ? '0 : held", "held"),
}


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(hw_dir().rglob("*.sby")), ids=lambda path: path.stem)
def test_every_proof_of_the_hardware_holds(path: Path) -> None:
    proofs = prove(path)
    assert [str(proof) for proof in proofs if not proof.holds] == []
    tasks = re.search(r"\[tasks\]\n(.*?)\n\n", path.read_text(), re.DOTALL)
    assert tasks is not None
    assert {proof.task for proof in proofs} == {line.split()[0] for line in tasks[1].splitlines()}


def test_every_proof_has_three_sets_of_parameters_and_a_fault_that_it_finds() -> None:
    proofs = {path.stem: path.read_text() for path in hw_dir().rglob("*.sby")}
    few = [name for name, text in proofs.items() if len(re.findall(r"^\w+ prove", text, re.MULTILINE)) < 3]
    assert few == []
    assert set(proofs) == {task.partition(".")[0] for task, _, _ in BROKEN.values()}


def test_every_common_block_that_stores_beats_has_a_proof() -> None:
    texts = {path: path.read_text() for path in COMMON.glob("*.sv")}
    stores = {path for path, text in texts.items() if "out_valid_o" in text and "always_ff" in text}
    assert {path.stem for path in stores} >= {
        "mase_fifo",
        "mase_credit_fifo",
        "mase_skid_buffer",
        "mase_width_converter",
        "mase_stream_resync",
        "mase_stream_finish",
    }
    assert [path.name for path in stores if not path.with_suffix(".sby").exists()] == []


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_the_proof_fails_for(fault: str, tmp_path: Path) -> None:
    task, text, instead = BROKEN[fault]
    block = task.partition(".")[0]
    (source,) = Path(shutil.copytree(hw_dir(), tmp_path / "hw")).rglob(f"{block}.sv")
    assert text in source.read_text()
    source.write_text(source.read_text().replace(text, instead))
    (proof,) = prove(source.with_suffix(".sby"), [task.partition(".")[2]])
    assert proof.status in {"FAIL", "UNKNOWN"}
    assert "failed assertion" in proof.reason


@pytest.mark.sim
def test_a_cover_that_is_never_reached_fails(tmp_path: Path) -> None:
    (tmp_path / "never.sv").write_text("module never (input a);\n  always @* cover (a && !a);\nendmodule\n")
    script = "[script]\nread_verilog -sv -formal never.sv\nprep -top never\n\n[files]\nnever.sv\n"
    (tmp_path / "never.sby").write_text(f"[options]\nmode cover\ndepth 3\n\n[engines]\nsmtbmc yices\n\n{script}")
    (proof,) = prove(tmp_path)
    assert (proof.block, proof.task, proof.status) == ("never", "", "FAIL")
    assert "Unreached cover statement" in proof.reason


@pytest.mark.sim
def test_a_source_that_does_not_parse_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.sv").write_text("module bad;\n  nonsense here nor there\nendmodule\n")
    script = "[script]\nread_verilog -sv -formal bad.sv\nprep -top bad\n\n[files]\nbad.sv\n"
    (tmp_path / "bad.sby").write_text(f"[options]\nmode bmc\n\n[engines]\nsmtbmc yices\n\n{script}")
    (proof,) = prove(tmp_path / "bad.sby")
    assert proof.status == "ERROR"
    assert "syntax error" in proof.reason


@pytest.mark.sim
def test_a_file_without_a_verdict_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.sby").write_text("[nonsense]\n")
    with pytest.raises(ToolError, match=r"empty\.sby: yowasp-sby ended with"):
        prove(tmp_path / "empty.sby")


@pytest.mark.parametrize("name", ["nothing.sby", "."])
def test_a_path_without_proofs_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither an \.sby file nor a folder with one"):
        prove(tmp_path / name)


def test_a_missing_solver_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "which", lambda name, environ=None: None)
    with pytest.raises(ToolError, match=r"pip install 'mase-dse\[synth\]'"):
        prove(COMMON)


def test_the_exit_code_says_whether_everything_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [Proof("block", "one", "PASS", ""), Proof("block", "two", "FAIL", "failed assertion x")]
    monkeypatch.setattr(formal, "prove", lambda path: outcomes)
    assert main(["hw"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["block.two", "FAIL:", "failed", "assertion", "x"]
    assert printed[2].startswith("2 tasks, 1 failed")
    monkeypatch.setattr(formal, "prove", lambda path: outcomes[:1])
    assert main(["hw"]) == 0
