"""Cost of a QAT step: ResNet-20, batch 128, W4A4, per-channel weights, against the float step of the same run.

    python benchmarks/qat_step.py [--rounds 50] [--threads 1] [--parts eager compiled] [--fresh | --smoke]

All variants of a part take turns, step by step, in one process, with the memory settings of the command line; CPU time
is compared, which noise of other processes moves least. Ratios: of the fastest steps, of the medians, and the median of
the ratios of neighbouring steps. Compiled steps have a float step of their own, and take turns with that.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import records
from mixbit import models
from mixbit._heap import keep_freed_memory
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import attach, calibrate, quantize, quantized_layers, quantizers
from mixbit.quantizers import fuse_under_compile
from mixbit.quantizers._native import library
from mixbit.supernet import select
from mixbit.training._optim import make_optimizer

BATCH = 128
PARTS = ("eager", "compiled")


class PlainLsq(torch.autograd.Function):
    """LSQ as one would write it first: one autograd function of eager operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: float, high: float, scale: float) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.rest = (low, high, scale)
        return torch.clamp(torch.round(x / step), low, high) * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, step = ctx.saved_tensors
        low, high, scale = ctx.rest
        v = x / step
        below, above = v <= low, v >= high
        inside = ~(below | above)
        slope = torch.where(inside, torch.round(v) - v, torch.where(below, low, high))
        by_step = grad * slope * scale
        by_step = by_step.sum() if step.numel() == 1 else by_step.sum(dim=(1, 2, 3)[: x.dim() - 1], keepdim=True)
        return grad * inside, by_step.view_as(step), None, None, None


class PlainQuantizer(nn.Module):
    """A mixbit quantizer's steps, used by another implementation."""

    def __init__(self, of: Any, how: str) -> None:
        super().__init__()
        self.how, self.low, self.high = how, float(of.qmins[0]), float(of.qmaxs[0])
        self.step = nn.Parameter(of.steps[0].detach().clone())
        self.register_buffer("zero", torch.zeros_like(self.step))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "function":
            step = self.step.view(-1, *[1] * (x.dim() - 1)) if self.step.numel() > 1 else self.step
            return PlainLsq.apply(x, step, self.low, self.high, (x.numel() * self.high) ** -0.5)  # type: ignore[no-any-return]
        low, high, zero, scale = int(self.low), int(self.high), self.zero, (x.numel() * self.high) ** -0.5
        if self.step.numel() > 1:
            learnable = torch._fake_quantize_learnable_per_channel_affine
            return learnable(x, self.step, zero, 0, low, high, scale)  # type: ignore[no-any-return]
        return torch._fake_quantize_learnable_per_tensor_affine(x, self.step, zero, low, high, scale)  # type: ignore[no-any-return]


def quantized(model: nn.Module, x: Tensor) -> nn.Module:
    """A W4A4 copy of the model."""
    model, network = copy.deepcopy(model), capture(model, x)
    quantize(model, Policy.uniform(network, 4, 4, {}), network)
    calibrate(model, [x])
    return model


def replaced(model: nn.Module, how: str) -> nn.Module:
    """The same network with another implementation of the quantizers."""
    model = copy.deepcopy(model)
    for layer in quantized_layers(model).values():
        layer.weight_quantizer = PlainQuantizer(layer.weight_quantizer, how)  # type: ignore[assignment]
        layer.input_quantizer = PlainQuantizer(layer.input_quantizer, how)  # type: ignore[assignment]
    return model


def make_step(
    model: nn.Module, x: Tensor, y: Tensor, *, bf16: bool = False, owner: nn.Module | None = None
) -> Callable[[], None]:
    """One training step; `owner` holds the parameters where `model` is a compiled wrapper."""
    model.train()
    rates = {"lr": 1e-4, "step_lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
    optimizer = make_optimizer(owner or model, name="sgd", **rates)  # type: ignore[arg-type]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(x)
        nn.functional.cross_entropy(out.float(), y).backward()
        optimizer.step()

    return step


def time_steps(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, Any]]:
    """CPU and wall seconds of every step, taken in turns."""
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            c, w = time.process_time(), time.perf_counter()
            step()
            cpu[name].append(time.process_time() - c)
            wall[name].append(time.perf_counter() - w)
    return {
        name: {
            "cpu_ms_min": 1e3 * min(cpu[name][2:]),
            "cpu_ms_median": 1e3 * statistics.median(cpu[name][2:]),
            "wall_ms_min": 1e3 * min(wall[name][2:]),
            "cpu_ms": [round(1e3 * seconds, 2) for seconds in cpu[name][2:]],
        }
        for name in steps
    }


def add_ratios(table: dict[str, dict[str, Any]], reference: str) -> None:
    """CPU time over that of the reference: of the minima, of the medians, and the median over the rounds."""
    for row in table.values():
        pairs = zip(row["cpu_ms"], table[reference]["cpu_ms"], strict=True)
        row["ratio_in_pairs"] = statistics.median(ours / theirs for ours, theirs in pairs)
        row["ratio"] = row["cpu_ms_min"] / table[reference]["cpu_ms_min"]
        row["ratio_of_medians"] = row["cpu_ms_median"] / table[reference]["cpu_ms_median"]


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Bytes of the distinct tensors that autograd keeps for the backward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    total: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield total
    total.append(sum(seen.values()))


def memory(model: nn.Module, x: Tensor) -> float:
    """MiB that one forward pass keeps."""
    with saved_bytes() as total:
        out = model.train()(x)
    del out
    return total[0] / 2**20


def profile(step: Callable[[], None]) -> list[dict[str, Any]]:
    """The ten operators with the most CPU time of their own in one step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    rows = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)[:10]
    return [{"operator": e.key, "ms": e.self_cpu_time_total / 1e3, "calls": e.count} for e in rows]


def compiled_table(model: nn.Module, four: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, Any]:
    """Compiled float against compiled W4A4, and the number of graphs that switching bits adds."""
    fuse_under_compile()
    steps = {}
    for name, one in (("float32, compiled", model), ("W4A4, compiled", four)):
        twin = copy.deepcopy(one)
        steps[name] = make_step(torch.compile(twin), x, y, owner=twin)  # type: ignore[arg-type]
    table = time_steps(steps, rounds)
    add_ratios(table, "float32, compiled")
    return {"steps": table, "graphs_added_by_switching_bits": recompiles(model, x, y)}


def recompiles(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Graphs compiled after the first step while a bank of four bit-widths is switched through all of them."""
    from torch._dynamo.utils import counters

    twin, network = copy.deepcopy(model), capture(model, x)
    attach(twin, network, {la.name: ((8, 6, 4, 2), (8, 6, 4, 2)) for la in network.layers})
    calibrate(twin, [x])
    step = make_step(torch.compile(twin), x, y, owner=twin)  # type: ignore[arg-type]
    step()
    first = counters["stats"]["unique_graphs"]
    for bits in (6, 4, 2, 8):
        select(twin, bits)
        step()
    return int(counters["stats"]["unique_graphs"] - first)


class Bench:
    """The networks, made when they are first asked for, and what is measured of them."""

    def __init__(self, batch: int, rounds: int) -> None:
        self.batch, self.rounds = batch, rounds

    @cached_property
    def batches(self) -> tuple[Tensor, Tensor]:
        """One batch of random images and labels."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, 3, 32, 32).to(memory_format=torch.channels_last)
        return x, torch.randint(0, 10, (self.batch,))

    @cached_property
    def models(self) -> dict[str, nn.Module]:
        """Every variant, from the same float weights."""
        x, _ = self.batches
        model = models.build("resnet20").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        four = quantized(model, x)
        return {
            "float32": model,
            "W4A4": four,
            "W4A4, plain LSQ function": replaced(four, "function"),
            "W4A4, torch's learnable operator": replaced(four, "learnable"),
        }

    @cached_property
    def steps(self) -> dict[str, Callable[[], None]]:
        """Of every variant; in bf16 too where there is arithmetic for it: elsewhere it is emulated."""
        found = {name: make_step(one, *self.batches) for name, one in self.models.items()}
        if bf16():
            for name in ("float32", "W4A4"):
                twin = copy.deepcopy(self.models[name])
                found[f"{name}, bf16 autocast"] = make_step(twin, *self.batches, bf16=True)
        return found

    def eager(self) -> dict[str, dict[str, Any]]:
        """All variants in turns."""
        table = time_steps(self.steps, self.rounds)
        add_ratios(table, "float32")
        show(table)
        return table

    def memory(self) -> dict[str, float]:
        """MiB for the backward pass."""
        return {name: memory(one, self.batches[0]) for name, one in self.models.items()}

    def compiled(self) -> dict[str, Any]:
        """Compiled float and W4A4 in turns."""
        found = compiled_table(self.models["float32"], self.models["W4A4"], *self.batches, self.rounds)
        show(found["steps"])
        return found


def bf16() -> bool:
    """Whether this processor has arithmetic for it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def show(table: dict[str, dict[str, Any]]) -> None:
    """A line for each step."""
    for name, row in table.items():
        ratios = f"{row['ratio_in_pairs']:.3f} in pairs, {row['ratio']:.3f} of minima"
        print(f"{name:36s} {row['cpu_ms_min']:7.1f} ms CPU   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the smoke version has no compiled")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    batch, rounds = (4, 1) if given.smoke else (BATCH, given.rounds)
    parts = [part for part in given.parts if part != "compiled" or not given.smoke]
    settings = {"batch": batch, "rounds": rounds, "threads": given.threads, "compiled_kernels": library() is not None}
    results = records.Results("qat_step", settings=settings, fresh=given.fresh, smoke=given.smoke)
    bench = Bench(batch, rounds)
    todo: dict[str, Callable[[], Any]] = {"eager": bench.eager, "saved_mib": bench.memory}
    todo |= {"profile_of_W4A4": lambda: profile(bench.steps["W4A4"])}
    todo = {**(todo if "eager" in parts else {}), **({"compiled": bench.compiled} if "compiled" in parts else {})}
    if results.plan(todo):
        facts = {"batch": batch, "compiled_kernels": library() is not None, "bf16_arithmetic": bf16()}
        results.facts(**facts, quantizers=len(quantizers(bench.models["W4A4"])))
    for part, make in todo.items():
        results.part(part, make)


if __name__ == "__main__":
    main()
