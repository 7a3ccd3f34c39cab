"""Tables for people: drawn in a terminal, plain text in files and pipes."""

from __future__ import annotations

from mixbit.report.attack_plots import attack_plot
from mixbit.report.attacks import attack_tables
from mixbit.report.certificates import certificate_plot, certificate_table
from mixbit.report.comparisons import comparison_line, comparison_table, comparison_tables
from mixbit.report.entropy import entropy_table
from mixbit.report.episodes import episodes_plot, episodes_table
from mixbit.report.exports import file_tables, lowering_notes_table, saturation_warning, verification_table
from mixbit.report.exports_c import c_tables, c_verification_table, footprint_summary, instructions_table
from mixbit.report.fronts import front_plot, front_table
from mixbit.report.latencies import latency_checks_table, latency_table
from mixbit.report.listings import listing
from mixbit.report.plots import pareto_front, pareto_plot
from mixbit.report.screen import Screen
from mixbit.report.searches import search_summary, search_tables
from mixbit.report.shift_plots import shift_plot
from mixbit.report.shifts import shift_summary_table, shift_table
from mixbit.report.steps import (
    after_allocate,
    after_attack,
    after_certify,
    after_compare,
    after_demo,
    after_evaluate,
    after_export,
    after_front,
    after_inspect,
    after_latency,
    after_search,
    after_stress,
    after_supernet,
    after_train,
)
from mixbit.report.stress import corruption_plot, corruption_table, stress_plots, stress_tables
from mixbit.report.supernets import subnets_table
from mixbit.report.table import Table
from mixbit.report.tables import (
    allocation_summary,
    bits_table,
    budget_table,
    costs_table,
    floats_table,
    joins_table,
    layers_table,
    outcome_table,
    skipped_table,
)
from mixbit.report.transfers import agreement_table, transfer_notes, transfer_table
from mixbit.report.units import count, duration, percent, seconds, size

__all__ = [
    "Screen",
    "Table",
    "after_allocate",
    "after_attack",
    "after_certify",
    "after_compare",
    "after_demo",
    "after_evaluate",
    "after_export",
    "after_front",
    "after_inspect",
    "after_latency",
    "after_search",
    "after_stress",
    "after_supernet",
    "after_train",
    "agreement_table",
    "allocation_summary",
    "attack_plot",
    "attack_tables",
    "bits_table",
    "budget_table",
    "c_tables",
    "c_verification_table",
    "certificate_plot",
    "certificate_table",
    "comparison_line",
    "comparison_table",
    "comparison_tables",
    "corruption_plot",
    "corruption_table",
    "costs_table",
    "count",
    "duration",
    "entropy_table",
    "episodes_plot",
    "episodes_table",
    "file_tables",
    "floats_table",
    "footprint_summary",
    "front_plot",
    "front_table",
    "instructions_table",
    "joins_table",
    "latency_checks_table",
    "latency_table",
    "layers_table",
    "listing",
    "lowering_notes_table",
    "outcome_table",
    "pareto_front",
    "pareto_plot",
    "percent",
    "saturation_warning",
    "search_summary",
    "search_tables",
    "seconds",
    "shift_plot",
    "shift_summary_table",
    "shift_table",
    "size",
    "skipped_table",
    "stress_plots",
    "stress_tables",
    "subnets_table",
    "transfer_notes",
    "transfer_table",
    "verification_table",
]
