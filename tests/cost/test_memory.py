"""Memories lie where Yosys 0.70 put them when these very sizes were synthesised for UltraScale+."""

from __future__ import annotations

import numpy as np
import pytest

from mase.cost import memory

ROMS = [  # bits, words, blocks of 18 Kbit
    *((36, 234, 0), (36, 236, 1), (72, 229, 0), (72, 232, 2), (144, 232, 4), (200, 235, 0), (18, 468, 0), (18, 470, 1)),
    *((4, 2080, 0), (4, 2112, 1), (32, 256, 0), (32, 512, 1), (32, 1024, 2), (32, 2048, 4)),
]
RAMS = [  # bits, words, flip-flops, LUTs, blocks of 18 Kbit
    *(
        (8, 1, 16, 0, 0),
        (8, 2, 8, 8, 0),
        (36, 32, 36, 24, 0),
        (72, 32, 72, 40, 0),
        (8, 33, 8, 8, 0),
        (36, 64, 36, 36, 0),
    ),
    *((8, 128, 8, 16, 0), (36, 65, 0, 0, 1), (72, 65, 0, 0, 2), (72, 300, 0, 0, 2)),
]


@pytest.mark.parametrize(("bits", "words", "blocks"), ROMS)
def test_a_rom_is_in_blocks_where_these_are_cheaper_than_logic(bits: int, words: int, blocks: int) -> None:
    assert memory.rom(bits, words) == blocks


@pytest.mark.parametrize(("bits", "words", "ff", "lut", "bram"), RAMS)
def test_a_ram_is_a_register_or_luts_or_blocks(bits: int, words: int, ff: int, lut: int, bram: int) -> None:
    assert memory.ram(bits, words) == memory.Ram(ff, lut, bram)


@pytest.mark.parametrize(("bits", "words", "luts"), [(9, 2, 8), (14, 32, 8), (33, 32, 24), (9, 33, 16), (33, 64, 40)])
def test_a_fifo_is_in_luts(bits: int, words: int, luts: int) -> None:
    assert memory.lutram(bits, words) == luts


def test_arrays_give_what_each_size_gives_alone() -> None:
    bits, words = (np.array(column) for column in zip(*((b, w) for b, w, _ in ROMS), strict=True))
    assert memory.rom(bits, words).tolist() == [blocks for *_, blocks in ROMS]
    bits, words = (np.array(column) for column in zip(*((b, w) for b, w, *_ in RAMS), strict=True))
    both = memory.ram(bits, words)
    found = np.stack([both.ff, both.lut, both.bram], axis=1)
    assert found.tolist() == [list(row[2:]) for row in RAMS]
