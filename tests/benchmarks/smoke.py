"""Which benchmarks are without a smoke version: shared by the tests of the registry and of the smoke runs."""

from __future__ import annotations

# Scripts that have no smoke version yet; only falls.
WITHOUT_SMOKE: set[str] = set()

# Run by `make bench` alone: what they open (MobileNetV2, several trainings, the whole of CIFAR-10 each time) costs ten
# to twenty seconds of a core, however few the images.
HEAVY = {"kure.py", "topological_entropy.py", "transfer.py"}
