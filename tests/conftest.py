"""Settings for all tests."""

from __future__ import annotations

import torch

# Tests run side by side on few cores: one thread each. Two thread pools on the same cores wait for each other at
# every step.
torch.set_num_threads(1)
