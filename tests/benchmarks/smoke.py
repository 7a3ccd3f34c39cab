"""Which benchmarks are without a smoke version: shared by the tests of the registry and of the smoke runs."""

from __future__ import annotations

# Scripts that have no smoke version yet; only falls.
WITHOUT_SMOKE = {
    "arena.py", "corruption.py", "export_c.py",
    "kure.py", "litert.py", "mlperf_tiny.py",
    "peers/export.py", "peers/mct.py", "peers/mixbit_search.py", "peers/modelopt_search.py", "peers/qat_step.py",
    "quantizer_shift_theory.py", "topological_entropy.py", "transfer.py",
}  # fmt: skip
