"""What makes each table of the pages: commands, what they need, and what they take.

    python benchmarks/remake.py --list

One entry a table, by the names of `tables.TABLES`, and one for every result file that no table is made of. The commands
of an entry make what the table shows, or more of it where its file is of a shorter run, one after the other; a command
that was stopped goes on where it was, so that all of them may be given again. `benchmarks/remake.py` runs them, and
tests hold the entries to the scripts, to the tables and to the result files.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import records

PEERS = records.ROOT / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a command asks of the machine."""

    text: str
    """As it is listed."""
    remedy: str
    there: Callable[[], bool]


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def _packages(*names: str) -> Callable[[], bool]:
    return lambda: all(importlib.util.find_spec(name) for name in names)


def _data() -> bool:
    return Path(os.environ.get("MIXBIT_DATA", records.ROOT.parent / "shared" / "data")).exists()


ARM = ("arm-none-eabi-gcc", "arm-none-eabi-size")
NEEDS: dict[str, Need] = {
    "data": Need(text="the real data", remedy="set MIXBIT_DATA to the folder with weights/ and cifar10/", there=_data),
    "compiler": Need(
        text="a C compiler", remedy="apt-get install gcc make", there=_programs("gcc", "make", "ar", "objcopy")
    ),
    "emulator": Need(text="the emulator", remedy="make setup-mcu", there=_programs(*ARM, "qemu-system-arm")),
    "oracles": Need(text="the extra oracles", remedy="make setup-oracles", there=_packages("ripser", "ai_edge_litert")),
    "pymoo": Need(text="the extra oracles", remedy="make setup-oracles", there=_packages("pymoo")),
    "stable-baselines3": Need(
        text="stable-baselines3", remedy="pip install stable-baselines3", there=_packages("stable_baselines3")
    ),
    "foolbox": Need(text="the extra oracles", remedy="make setup-oracles", there=_packages("foolbox")),
    "cmsis-nn": Need(
        text="a checkout of CMSIS-NN",
        remedy="set MIXBIT_CMSIS_NN to its folder",
        there=lambda: "MIXBIT_CMSIS_NN" in os.environ,
    ),
    "peers": Need(text="the peers' environment", remedy="make .venv-peers/.ok", there=PEERS.exists),
    "quiet": Need(text="a quiet machine", remedy="", there=lambda: True),
}
"""Name -> what it is, how it is got, and whether it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command: a script of benchmarks/ and its arguments."""

    words: str
    smoke: str
    """The same in seconds, on a few images; by default the script with `--smoke` alone."""

    @classmethod
    def of(cls, words: str, smoke: str | None = None) -> Step:
        """From what is typed after `python benchmarks/`.

        >>> Step.of("ptq.py --methods lapq").smoke
        'ptq.py --smoke'
        """
        return cls(words=words, smoke=smoke or f"{words.split()[0]} --smoke")

    @property
    def script(self) -> str:
        """Relative to benchmarks/."""
        return self.words.split()[0]

    @property
    def python(self) -> Path | None:
        """The interpreter, where it is not the one of this environment."""
        return PEERS if self.script.startswith("peers/") else None

    @property
    def shown(self) -> str:
        """As it is typed at the repository's root."""
        python = "python" if self.python is None else str(PEERS.relative_to(records.ROOT))
        return f"{python} benchmarks/{self.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What makes a table."""

    steps: tuple[Step, ...]
    """In order."""
    makes: tuple[str, ...]
    """Result files, relative to benchmarks/."""
    needs: tuple[str, ...]
    """Names of `NEEDS`."""
    cost: str
    """In words, all rows made anew."""
    pending: tuple[str, ...] = ()
    """What was not run yet: result files, or parts of one (`results/supernet.json#equal`), which tests want absent."""


def _entry(
    tables: Iterable[str],
    steps: Iterable[str | tuple[str, str]],
    *,
    makes: Iterable[str],
    cost: str,
    needs: Iterable[str] = (),
    pending: Iterable[str] = (),
) -> dict[str, Entry]:
    """One entry for tables that the same commands make; a pair of texts has its own smoke version."""
    made = tuple(Step.of(one) if isinstance(one, str) else Step.of(*one) for one in steps)
    entry = Entry(steps=made, makes=tuple(makes), needs=tuple(needs), cost=cost, pending=tuple(pending))
    return dict.fromkeys(tables, entry)


_TRAINED = ("kure.py train --threads 1", "kure.py train --smoke")
_KURE_TABLES = ("bits_curve", "corruption", "curve", "powers", "ptq", "qat", "steps", "weights")
_TRANSFER = "transfer.py --epochs 0 --threads 1"
_TUNED = "arena.py --threads 1 --epochs 1 --fraction 0.5"

TRAINING: dict[str, Entry] = {
    **_entry(
        ["cifar10"],
        ["cifar10_resnet20.py --epochs 5 --seeds 0 1 --threads 1"],
        makes=[
            "results/cifar10_resnet20.json",
            "results/cifar10_resnet20_scores_limpq.json",
            "results/cifar10_resnet20_scores_limpq-init.json",
        ],
        needs=["data"],
        cost="10 hours of one core with bf16 arithmetic, several times as many without",
    ),
    **_entry(
        ["certified", "certified_early", "certified_incremental", "certified_integers", "certified_speed"],
        ["certification.py"],
        makes=["results/certification.json"],
        needs=["data", "compiler"],
        cost="5 hours of one core with bf16 arithmetic and VNNI",
    ),
    **_entry(
        ["supernet_uniform", "supernet_judge", "supernet_equal"],
        ["supernet.py --networks mobilenetv1-cifar resnet20 --seeds 0 1 2 --threads 1"],
        makes=["results/supernet.json"],
        needs=["data"],
        cost="a day of one core",
        pending=["results/supernet.json#equal"],
    ),
    **_entry(
        ["arena"],
        [("arena.py --threads 1 --epochs 0", "arena.py --epochs 0 --smoke")],
        makes=["results/arena.json"],
        needs=["data"],
        cost="2 hours of one core",
    ),
    **_entry(
        ["arena_tuned"],
        [
            f"{_TUNED} --budgets bitops=3x3 --methods uniform,random,fit,hawq-v2,limpq --peers none",
            f"{_TUNED} --budgets bitops=3x3 --methods uniform,fit,hawq-v2 --peers none --seeds 1 2",
            f"{_TUNED} --budgets weight-bytes=10x --methods uniform,random,map-size,one-at-a-time,fit,limpq",
            f"{_TUNED} --budgets weight-bytes=10x --methods uniform,map-size,fit --peers mct --seeds 1 2",
        ],
        makes=["results/arena_tuned.json"],
        needs=["data"],
        cost="6 hours of one core",
    ),
    **_entry(
        [f"kure_{name}" for name in _KURE_TABLES],
        [_TRAINED, ("kure.py evaluate --images 4000 --threads 1", "kure.py evaluate --smoke")],
        makes=["results/kure.json"],
        needs=["data"],
        cost="3 hours of one core",
    ),
    **_entry(
        ["kure_search"],
        [_TRAINED, ("kure.py search --images 2000 --threads 1", "kure.py search --smoke")],
        makes=["results/kure.json"],
        needs=["data"],
        cost="3 hours of one core",
    ),
    **_entry(
        ["kure_cost"],
        [("kure.py cost --threads 1", "kure.py cost --smoke")],
        makes=["results/kure.json"],
        cost="2 minutes of one core",
    ),
    **_entry(
        ["transfer_cifar"],
        [
            (
                f"{_TRANSFER} --part cifar --methods uniform sqnr fit topological-entropy limpq-init",
                "transfer.py --part cifar --smoke",
            )
        ],
        makes=["results/transfer.json"],
        needs=["data"],
        cost="an hour of one core",
    ),
    **_entry(
        ["transfer_mobilenet"],
        [
            (
                f"{_TRANSFER} --part mobilenet --methods uniform topological-entropy limpq-init fit",
                "transfer.py --part mobilenet --smoke",
            )
        ],
        makes=["results/transfer.json"],
        needs=["data"],
        cost="an hour of one core",
    ),
    **_entry(
        ["ptq"],
        [
            "ptq.py --methods minmax mse lp --settings W4 W3 W4A4",
            "ptq.py --methods lp --settings W4 W3 --bias-correction",
            "ptq.py --methods lapq --settings W3 --samples 128",
        ],
        makes=["results/ptq.json"],
        needs=["data"],
        cost="7 minutes of one core",
    ),
    **_entry(
        ["topology_unit"],
        ["topological_entropy.py"],
        makes=["results/topological_entropy.json"],
        needs=["data", "oracles"],
        cost="30 minutes of two cores",
    ),
    **_entry(
        ["topology_grid", "topology_speed"],
        [("topological_entropy.py --graph grid", "topological_entropy.py --graph grid --smoke")],
        makes=["results/topological_entropy_grid.json"],
        needs=["data"],
        cost="5 minutes of one core",
    ),
    **_entry(
        ["litert"],
        ["litert.py"],
        makes=["results/litert.json"],
        needs=["data", "oracles", "compiler"],
        cost="15 minutes of one core",
    ),
    **_entry(["corruption"], ["corruption.py"], makes=["results/corruption.json"], cost="2 minutes of one core"),
    **_entry(
        ["shift_curvature", "shift_theory"],
        ["quantizer_shift_theory.py"],
        makes=["results/quantizer_shift_theory.json"],
        cost="seconds",
    ),
}
"""Searches and trainings on the published networks, and what is measured of the methods themselves."""

EXPORTS: dict[str, Entry] = {
    **_entry(
        ["export_sizes", "export_items"],
        ["export_onnx.py --parts sizes"],
        makes=["results/export_onnx.json"],
        cost="10 minutes of one core",
    ),
    **_entry(
        ["export_speed"],
        ["export_onnx.py --parts speed --rounds 15"],
        makes=["results/export_onnx.json"],
        needs=["quiet"],
        cost="20 minutes of one core",
    ),
    **_entry(
        ["export_exact"],
        ["export_onnx.py --parts exact --epochs 1 --images 10000"],
        makes=["results/export_onnx.json"],
        needs=["data"],
        cost="an hour of one core",
    ),
    **_entry(
        ["export_cpu", "export_cpu_accuracy"],
        ["export_cpu.py --rounds 30 --images 10000"],
        makes=["results/export_cpu.json"],
        needs=["data", "quiet"],
        cost="30 minutes of one core",
    ),
    **_entry(
        ["latency_ways"],
        ["latency_ways.py --repetitions 10 --rounds 15 --policies 8 --bits 2 4 8"],
        makes=["results/latency_ways.json"],
        needs=["quiet"],
        cost="5 minutes of one core",
    ),
    **_entry(
        ["latency", "latency_bits"],
        ["latency.py --repeats 30 --policies 8"],
        makes=["results/latency.json"],
        needs=["quiet"],
        cost="an hour of one core",
    ),
}
"""Files of `mixbit export` on this processor."""

SPEED: dict[str, Entry] = {
    **_entry(
        ["allocation"],
        ["allocation.py --rounds 9 --limit 20"],
        makes=["results/allocation.json"],
        needs=["data", "quiet"],
        cost="15 minutes of one core",
    ),
    **_entry(
        ["qat"],
        ["qat_step.py --rounds 50 --threads 1", "limpq_step.py --rounds 8 --threads 1"],
        makes=["results/qat_step.json", "results/limpq_step.json"],
        needs=["quiet"],
        cost="20 minutes of one core",
    ),
    **_entry(
        ["selection"],
        ["selection.py --rounds 20 --batch 128"],
        makes=["results/selection.json"],
        needs=["quiet"],
        cost="3 minutes of one core",
    ),
    **_entry(
        ["supernet_cost"],
        ["supernet_cost.py --rounds 8"],
        makes=["results/supernet_cost.json"],
        needs=["data", "quiet"],
        cost="10 minutes of one core",
    ),
    **_entry(
        ["evolution"],
        ["evolution.py --seeds 10 --images 128"],
        makes=["results/evolution.json"],
        needs=["data", "pymoo"],
        cost="3 minutes of one core",
    ),
    **_entry(
        ["ddpg"],
        ["ddpg.py --seeds 3 --episodes 300"],
        makes=["results/ddpg.json"],
        needs=["stable-baselines3"],
        cost="10 minutes of one core",
    ),
    **_entry(
        ["rl_haq", "rl_arq", "rl_episode"],
        ["rl_policies.py --seeds 0 1 2 --episodes 120 --epochs 3"],
        makes=["results/rl_policies.json"],
        needs=["data"],
        cost="days of one core",
        pending=["results/rl_policies.json"],
    ),
    **_entry(
        ["attack_threshold", "attack_ray", "attack_near", "attack_gradients", "attack_layers"],
        ["attack_findings.py --images 300"],
        makes=["results/attack_findings.json"],
        needs=["data"],
        cost="30 minutes of one core",
    ),
    **_entry(
        ["attack_policies"],
        ["attack_policies.py --seeds 0 1 2"],
        makes=["results/attack_policies.json"],
        needs=["data"],
        cost="40 minutes of one core",
    ),
    **_entry(
        ["attack_oracles"],
        ["attack_oracles.py --images 100"],
        makes=["results/attack_oracles.json"],
        needs=["data", "foolbox"],
        cost="an hour of one core",
    ),
    **_entry(
        ["against"],
        [("against.py --base 02457fc --rounds 5", "against.py --smoke")],
        makes=["results/against.json"],
        needs=["quiet", "emulator"],
        cost="15 minutes of one core",
    ),
    **_entry(
        ["capture"],
        ["capture.py --runs 5"],
        makes=["results/capture.json"],
        needs=["quiet"],
        cost="2 minutes of one core",
    ),
}
"""Times of our own steps."""

MCU: dict[str, Entry] = {
    **_entry(
        ["mcu_conv", "mcu_layers"],
        ["mcu_kernels.py --cmsis-nn $MIXBIT_CMSIS_NN"],
        makes=["results/mcu_kernels.json"],
        needs=["emulator", "cmsis-nn"],
        cost="15 minutes of one core",
    ),
    **_entry(
        ["mcu_counts"],
        ["mcu_counts.py --core cortex-m4 --bits 2,4,8 --policies 4"],
        makes=["results/mcu_counts.json"],
        needs=["emulator"],
        cost="20 minutes of one core",
    ),
    **_entry(
        ["mlperf_tiny", "mlperf_tiny_bits", "mlperf_tiny_networks", "front_page"],
        ["mlperf_tiny.py"],
        makes=["results/mlperf_tiny.json"],
        needs=["data", "emulator", "compiler"],
        cost="an hour of one core",
    ),
    **_entry(
        ["c_exact"],
        [
            "export_c.py --parts exact --policies W4A4 --images 50",
            "export_c.py --parts exact --policies trained-W4A4 W8A8 --images 1000",
            "export_c.py --parts boards --policies trained-W4A4 W8A8 W2A4 --board-images 20",
            "export_c.py --parts random sizes --policies W4A4 --graphs 200 --sanitized 20",
        ],
        makes=["results/export_c.json"],
        needs=["data", "emulator", "compiler"],
        cost="an hour of one core",
    ),
}
"""C for microcontrollers."""

PEER: dict[str, Entry] = {
    **_entry(
        ["peers_search"],
        ["peers/mct.py --images 32 256 --threads 1", "peers/mixbit_search.py --rounds 1 --threads 1"],
        makes=[
            "peers/results/mct.json",
            "peers/results/mct-256.json",
            "peers/results/mct-pinned.json",
            "results/peers_search.json",
        ],
        needs=["data", "peers", "quiet"],
        cost="30 minutes of one core",
    ),
    **_entry(
        ["peers_solver"],
        ["peers/modelopt_search.py --batch 256 32 --threads 1"],
        makes=["peers/results/modelopt.json", "peers/results/modelopt-resolved.json"],
        needs=["data", "peers"],
        cost="5 minutes of one core",
    ),
    **_entry(
        ["peers_qat_step"],
        ["peers/qat_step.py --batch 128 --rounds 20 --threads 1"],
        makes=["results/peers_qat_step.json"],
        needs=["peers", "quiet"],
        cost="15 minutes of one core",
    ),
    **_entry(
        ["peers_export"],
        ["peers/export.py --networks resnet20 resnet18 mobilenetv2 --rounds 10"],
        makes=["peers/results/export.json"],
        needs=["data", "peers", "quiet"],
        cost="30 minutes of one core",
    ),
}
"""Other toolkits."""

ENTRIES: Mapping[str, Entry] = {**TRAINING, **EXPORTS, **SPEED, **MCU, **PEER}
"""Name of a table, or of a result file without one -> what makes it."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "bench": ("allocation", "qat", "capture", "corruption", "c_exact", "shift_theory"),
    "bench-arena": ("arena", "arena_tuned"),
    "bench-cifar10": ("cifar10",),
    "bench-export": ("export_sizes", "export_speed", "export_exact", "export_cpu", "latency", "latency_ways"),
    "bench-mcu": ("mcu_conv", "mcu_counts", "mlperf_tiny"),
    "bench-peers": ("peers_search", "peers_solver", "peers_qat_step", "peers_export"),
}
"""Target of make -> the tables that it makes."""
