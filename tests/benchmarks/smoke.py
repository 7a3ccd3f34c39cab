"""Which benchmarks are without a smoke version: shared by the tests of the registry and of the smoke runs."""

from __future__ import annotations

# Scripts that have no smoke version yet; only falls.
WITHOUT_SMOKE: set[str] = set()
