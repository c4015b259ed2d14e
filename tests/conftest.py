"""What all tests share: fixed seeds, repeatable properties, one thread (``MASE_TEST_THREADS`` gives them more).

Markers (pyproject.toml declares them):
    sim      builds or runs a simulation. Compiled models lie in ``mase.paths.cache_dir()``, so a second run is quick;
             ``MASE_CACHE`` moves that folder, and what it holds is good for every checkout.
    slow     takes more than a few seconds.
    browser  opens a page in Chromium.
    nightly  takes minutes; left out unless ``-m`` names it, as ``make nightly`` does.
``pytest -m "not sim and not slow"`` is the quick loop. Under xdist, ``--dist worksteal`` keeps neighbours together at
first, so a fixture of a module is mostly made once; tests must not rely on it.
"""

from __future__ import annotations

import os

# Before torch is imported, and for the programs that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ.get("MASE_TEST_THREADS", "1")

import random
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

from mase.data.base import Data
from tests.report.browser import NO_BROWSER

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # a loaded machine is not a failure
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # likewise
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly tests out where nobody asks for them."""
    if "nightly" not in config.option.markexpr:
        late = [item for item in items if item.get_closest_marker("nightly")]
        if late:
            config.hook.pytest_deselected(items=late)
            items[:] = [item for item in items if not item.get_closest_marker("nightly")]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line that the pages were not looked at: a reader of "passed" must not have to search for it."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        skipped = [report for report in terminal.stats.get("skipped", ()) if "browser" in report.keywords]
        if skipped:
            terminal.write_line(f"{len(skipped)} browser tests were skipped: {NO_BROWSER}", yellow=True)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed every global generator, and undo a changed default dtype, so that the order of tests does not matter."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the legacy generator
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def tiny_llama() -> tuple[nn.Module, Data]:
    """Return a small language model and the text that taught it; about 45 CPU seconds, then kept by content.

    The model is the zoo's ``llama``, 619,392 parameters; the text is the source of Python's standard library, as bytes.
    For tests that are marked slow.
    """
    from mase.config import TrainConfig
    from mase.data.base import load
    from mase.models.base import build
    from mase.training import trained

    data = load("stdlib", {"window": 128})
    config = TrainConfig(steps=800, batch=8, rate=0.008, warmup=0.1, clip=1.0)
    return trained(lambda: build("llama"), data, config), data
