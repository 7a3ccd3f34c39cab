"""Settings for all tests."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import torch
from hypothesis import settings

from tests.needs import pytest_terminal_summary as pytest_terminal_summary

# A test says nothing of time: on a machine with other work the first example alone may take seconds.
settings.register_profile("mixbit", deadline=None)
settings.load_profile("mixbit")

# What inductor compiled for one instruction set does not build for another, and its cache does not tell them apart.
if isa := os.environ.get("ATEN_CPU_CAPABILITY"):
    cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{isa}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# Tests run side by side on few cores: one thread each. Two thread pools on the same cores wait for each other at
# every step.
torch.set_num_threads(1)
