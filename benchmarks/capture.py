"""Capture: seconds, layers and MACs of every network against torch's FlopCounterMode, and what `import mixbit` costs.

    python benchmarks/capture.py

Writes benchmarks/results/capture.json. The first capture of a process also loads torch.export's machinery; it is
measured apart, in a fresh process, on ResNet-50. FlopCounterMode does not see CPU attention, so the counter runs with
attention as plain products of matrices.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from common import ROOT, write_result

NETWORKS = ["resnet20", "resnet18", "resnet50", "mobilenetv2", "ds-cnn", "mobilenetv1-0.25", "vit-tiny-hf"]
RUNS = 5
IMPORTS = 9
LIMIT_CAPTURE_S = 10.0
LIMIT_IMPORT_S = 0.2


def measure(name: str) -> dict[str, Any]:
    """One network: median and worst of several captures, and both counts."""
    import torch

    from mixbit import models
    from mixbit.network import capture

    torch.manual_seed(0)
    model = models.build(name).eval()
    x = torch.randn(2, *models.info(name).input_shape)
    network = capture(model, x)
    seconds = []
    for _ in range(RUNS):
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


def cpu_seconds(statement: str) -> float:
    """Smallest CPU time of a statement in fresh interpreters; CPU time does not count waiting for a busy machine."""
    code = f"import time; s = time.process_time(); {statement}; print(time.process_time() - s)"
    return min(fresh(code) for _ in range(IMPORTS))


FIRST = """
import time, torch
from mixbit import models
from mixbit.network import capture
model, x = models.build("resnet50"), torch.randn(2, 3, 224, 224)
start = time.perf_counter()
capture(model, x)
print(time.perf_counter() - start)
"""


def imports() -> dict[str, float]:
    """`import mixbit` over `import torch`; also with every public name touched, should they be loaded lazily."""
    torch = cpu_seconds("import torch")
    mixbit = cpu_seconds("import torch, mixbit")
    names = cpu_seconds("import torch, mixbit; [getattr(mixbit, n) for n in getattr(mixbit, '__all__', ())]")
    return {
        "torch_cpu_s": round(torch, 3),
        "over_torch_s": round(mixbit - torch, 3),
        "all_public_names_over_torch_s": round(names - torch, 3),
        "limit_s": LIMIT_IMPORT_S,
    }


def main() -> None:
    """Measure all, print a table, write the result file; a missed goal is an exit status of 1."""
    rows = {name: measure(name) for name in NETWORKS}
    first, loading = round(fresh(FIRST), 3), imports()
    for name, row in rows.items():
        told = "equal" if row["equal"] else "NOT EQUAL"
        print(f"{name:18} {row['layers']:3} layers {row['macs']:>13,} MACs {row['seconds_median']:6.3f} s  {told}")
    print(f"first capture of a process, resnet50: {first} s; import mixbit over torch: {loading['over_torch_s']} s")
    reached = {
        "equal_to_flop_counter": all(row["equal"] for row in rows.values()),
        "resnet50_under_10_s": max(first, rows["resnet50"]["seconds_worst"]) < LIMIT_CAPTURE_S,
        "import_under_0.2_s": loading["over_torch_s"] <= LIMIT_IMPORT_S,
    }
    payload = {"networks": rows, "first_resnet50_s": first, "import": loading, "runs": RUNS, "reached": reached}
    print(write_result("capture", payload, seed=0))
    sys.exit(0 if all(reached.values()) else 1)


if __name__ == "__main__":
    main()
