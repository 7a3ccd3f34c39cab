"""Capture: seconds, layers and MACs of every network against torch's FlopCounterMode, and what `import mixbit` costs.

    python benchmarks/capture.py [--runs 5] [--fresh | --smoke]

Each network is a part of benchmarks/results/capture.json, and so are the first capture and the import. The first
capture of a process also loads torch.export's machinery; it is measured apart, in a fresh process, on ResNet-50.
FlopCounterMode does not see CPU attention, so the counter runs with attention as plain products of matrices.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import records
from common import ROOT

NETWORKS = ["resnet20", "resnet18", "resnet50", "mobilenetv2", "ds-cnn", "mobilenetv1-0.25", "vit-tiny-hf"]
IMPORTS = 9
LIMIT_CAPTURE_S = 10.0
LIMIT_IMPORT_S = 0.2


def measure(name: str, runs: int) -> dict[str, Any]:
    """One network: median and worst of several captures, and both counts."""
    import torch

    from mixbit import models
    from mixbit.network import capture

    torch.manual_seed(0)
    model = models.build(name).eval()
    x = torch.randn(2, *models.info(name).input_shape)
    network = capture(model, x)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        capture(model, x)
        seconds.append(time.perf_counter() - start)
    layers, macs = counted(model, x)
    return {
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_worst": round(max(seconds), 3),
        "layers": len(network.layers),
        "layers_flop_counter": layers,
        "macs": network.macs,
        "macs_flop_counter": macs,
        "macs_outside_layers": network.other_macs,
        "adds_and_concats": len(network.joins),
        "skipped": len(network.skipped),
        "equal": (len(network.layers), network.macs) == (layers, macs),
    }


def counted(model: Any, x: Any) -> tuple[int, float]:
    """Modules with weights that FlopCounterMode saw work in, and MACs of one sample."""
    import torch
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    flops = counter.get_flop_counts()
    leaves = [name for name, module in model.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)]
    worked = [name for name in leaves if flops.get(f"{type(model).__name__}.{name}")]
    return len(worked), int(counter.get_total_flops()) / (2 * x.shape[0])


def fresh(code: str) -> float:
    """The number that a fresh interpreter prints."""
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def cpu_seconds(statement: str, times: int) -> float:
    """Smallest CPU time of a statement in fresh interpreters; CPU time does not count waiting for a busy machine."""
    code = f"import time; s = time.process_time(); {statement}; print(time.process_time() - s)"
    return min(fresh(code) for _ in range(times))


FIRST = """
import time, torch
from mixbit import models
from mixbit.network import capture
model, x = models.build("resnet50"), torch.randn(2, 3, 224, 224)
start = time.perf_counter()
capture(model, x)
print(time.perf_counter() - start)
"""


def imports(times: int = IMPORTS) -> dict[str, float]:
    """`import mixbit` over `import torch`; also with every public name touched, should they be loaded lazily."""
    torch = cpu_seconds("import torch", times)
    mixbit = cpu_seconds("import torch, mixbit", times)
    names = cpu_seconds("import torch, mixbit; [getattr(mixbit, n) for n in getattr(mixbit, '__all__', ())]", times)
    return {
        "torch_cpu_s": round(torch, 3),
        "over_torch_s": round(mixbit - torch, 3),
        "all_public_names_over_torch_s": round(names - torch, 3),
        "limit_s": LIMIT_IMPORT_S,
    }


def main() -> None:
    """Measure what is missing, print a table, write the result file; a missed goal is an exit status of 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each network")
    records.arguments(parser)
    given = parser.parse_args()
    names, runs = (["resnet20"], 1) if given.smoke else (NETWORKS, given.runs)
    settings = {"runs": runs, "imports": IMPORTS}
    results = records.Results("capture", settings=settings, fresh=given.fresh, smoke=given.smoke)
    whole = [] if given.smoke else ["first_resnet50_s", "import"]
    results.plan([*(f"networks.{name}" for name in names), *whole])
    results.facts(runs=runs)
    rows = {name: results.part(f"networks.{name}", lambda name=name: measure(name, runs)) for name in names}  # type: ignore[misc]
    for name, row in rows.items():
        told = "equal" if row["equal"] else "NOT EQUAL"
        print(f"{name:18} {row['layers']:3} layers {row['macs']:>13,} MACs {row['seconds_median']:6.3f} s  {told}")
    if given.smoke:  # an interpreter of its own takes seconds to start
        return
    first = results.part("first_resnet50_s", lambda: round(fresh(FIRST), 3))
    loading = results.part("import", imports)
    print(f"first capture of a process, resnet50: {first} s; import mixbit over torch: {loading['over_torch_s']} s")
    reached = {
        "equal_to_flop_counter": all(row["equal"] for row in rows.values()),
        "resnet50_under_10_s": max(first, rows["resnet50"]["seconds_worst"]) < LIMIT_CAPTURE_S,
        "import_under_0.2_s": loading["over_torch_s"] <= LIMIT_IMPORT_S,
    }
    results.facts(reached=reached)
    sys.exit(0 if all(reached.values()) else 1)


if __name__ == "__main__":
    main()
