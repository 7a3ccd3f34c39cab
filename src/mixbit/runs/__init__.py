"""What the commands do, each in a run folder that a killed command goes on from."""

from __future__ import annotations

from mixbit.runs.allocating import Allocated, allocate
from mixbit.runs.attacking import Attacked, AttackResult, AttackSettings, Picture, attack
from mixbit.runs.certifying import CertifiedRuns, CertifySettings, certify
from mixbit.runs.comparing import (
    Comparison,
    Effort,
    Entry,
    Judge,
    Judged,
    PolicyResult,
    Row,
    compare,
    read_comparison,
)
from mixbit.runs.demonstrating import Demo, demo
from mixbit.runs.evaluating import Evaluated, evaluate
from mixbit.runs.exporting import Exported, Verified, export, export_targets, verify
from mixbit.runs.exporting_c import ExportedC, VerifiedC, export_c, is_c_folder, verify_c_folder
from mixbit.runs.inspecting import Inspected, inspect
from mixbit.runs.latency import LATENCY_TARGETS, BuiltLatency, build_latency
from mixbit.runs.picking import Picked, pick
from mixbit.runs.searching import Searched, search
from mixbit.runs.stressing import Profile, StressSettings, stress
from mixbit.runs.subject import Outcome, Subject
from mixbit.runs.supernets import (
    OpenedSupernet,
    Subnet,
    TrainedSupernet,
    evaluate_supernet,
    is_supernet,
    open_supernet,
    train_supernet,
)
from mixbit.runs.taking import take
from mixbit.runs.training import Trained, train
from mixbit.runs.transferring import Agreement, Reached, Transferred, transfer

__all__ = [
    "LATENCY_TARGETS",
    "Agreement",
    "Allocated",
    "AttackResult",
    "AttackSettings",
    "Attacked",
    "BuiltLatency",
    "CertifiedRuns",
    "CertifySettings",
    "Comparison",
    "Demo",
    "Effort",
    "Entry",
    "Evaluated",
    "Exported",
    "ExportedC",
    "Inspected",
    "Judge",
    "Judged",
    "OpenedSupernet",
    "Outcome",
    "Picked",
    "Picture",
    "PolicyResult",
    "Profile",
    "Reached",
    "Row",
    "Searched",
    "StressSettings",
    "Subject",
    "Subnet",
    "Trained",
    "TrainedSupernet",
    "Transferred",
    "Verified",
    "VerifiedC",
    "allocate",
    "attack",
    "build_latency",
    "certify",
    "compare",
    "demo",
    "evaluate",
    "evaluate_supernet",
    "export",
    "export_c",
    "export_targets",
    "inspect",
    "is_c_folder",
    "is_supernet",
    "open_supernet",
    "pick",
    "read_comparison",
    "search",
    "stress",
    "take",
    "train",
    "train_supernet",
    "transfer",
    "verify",
    "verify_c_folder",
]
