"""What all tests share: one thread, fixed seeds, repeatable properties.

Markers (pyproject.toml declares them):
    sim      builds or runs a simulation. Compiled models lie in ``mase.paths.cache_dir()``, so a second run is quick;
             ``MASE_CACHE`` moves that folder, and what it holds is good for every checkout.
    slow     takes more than a few seconds.
    browser  opens a page in Chromium.
``pytest -m "not sim and not slow"`` is the quick loop. Under xdist, ``--dist worksteal`` keeps neighbours together at
first, so a fixture of a module is mostly made once; tests must not rely on it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the programs that tests start

import random
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # a loaded machine is no failure
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # likewise
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed every global generator, and undo a changed default dtype, so that the order of tests does not matter."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the legacy generator
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
