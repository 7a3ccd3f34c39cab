"""What a method ends in, scores, a policy or a front, in a run folder."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mixbit import _distributed, _io, methods
from mixbit._settings import read
from mixbit.cost import ON_DEVICE, Budget, Costs, LatencyTable, LayerBits
from mixbit.errors import BudgetError, MixbitError
from mixbit.evaluation import try_out
from mixbit.export.c import COptions, Footprint, Layouts
from mixbit.integer import GraphRounding, lower_at
from mixbit.methods import EpisodeRecord, Kind, Qfa, read_episodes
from mixbit.methods.qfa import EVOLUTION
from mixbit.network import Network
from mixbit.policy import Front, Policy, Scores, Terms, WeightsFile, resolve_pins
from mixbit.runs import _folder
from mixbit.runs._device import C_OPTIONS, check_c, is_on_device
from mixbit.runs._options import KURTOSIS
from mixbit.runs._sources import ENDS
from mixbit.runs.subject import Subject
from mixbit.runs.supernets import is_supernet, open_supernet
from mixbit.supernet.training import WEIGHTS
from mixbit.task import Task
from mixbit.training import KurtosisConfig, regularised

__all__ = ["Searched", "search"]

_HOLDS: dict[Kind, str] = {
    "score": "harm of every bit-width to every layer",
    "policy": "the bits of every layer, within the budget",
    "front": "policies with their costs and their measured quality",
}
_LOADERS: dict[Kind, Any] = {"score": Scores, "policy": Policy, "front": Front}
_ENDS_AT = LayerBits(8, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the search ended in, the network that it is of, and the files written with what each holds."""

    result: Scores | Policy | Front
    network: Network
    files: dict[Path, str]
    subject: Subject
    budget: Budget | None = None
    """The budget of a search under one."""
    limits: dict[str, int] = field(default_factory=dict)
    """The budget in whole numbers."""
    pinned: tuple[str, ...] = ()
    """Layers whose bits were fixed under the budget."""
    costs: Costs | None = None
    """What the policy uses that such a search ended in."""
    footprint: Footprint | None = None
    """That policy as C, each layer with an input step of its own, as after training; None without such a limit."""
    episodes: tuple[EpisodeRecord, ...] = ()
    """What a search by episodes tried, in its order; none of other searches."""

    @property
    def scores(self) -> Scores:
        """What it ended in, where that is scores.

        Raises:
            MixbitError: it is not.
        """
        if not isinstance(self.result, Scores):
            kind = "a policy" if isinstance(self.result, Policy) else "a front"
            raise MixbitError(f"{self.result.method} ends in {kind}, and not in scores. Ask for .result.")
        return self.result

    @property
    def notes(self) -> tuple[str, ...]:
        """What the method did otherwise than its settings say, and why; and notes of a policy or a front."""
        found = self.result.settings.get("notes") if isinstance(self.result, Scores) else self.result.notes
        return tuple(map(str, found)) if isinstance(found, list) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A budget of this network, with what it is counted under."""

    budget: Budget
    terms: Terms
    limits: dict[str, int]
    layouts: Layouts | None = None
    """Of the network as C, where a limit is of what that takes."""

    def search(self, method: Any, task: Task, **how: Any) -> Policy:
        """The policy that the method ends in; under limits of a device, one that was laid out and fits."""
        if self.layouts is None:
            policy: Policy = method.search(task, self.budget, terms=self.terms, **how)
            return policy
        return self.layouts.search(lambda terms: method.search(task, self.budget, terms=terms, **how))

    def counted(self, policy: Policy, network: Network) -> tuple[Policy, Costs, Footprint | None]:
        """A policy of the network with what it uses, each counted once."""
        policy.check_layers(network)
        footprint = None if self.layouts is None else self.layouts.lay_out(policy.layers)
        terms = self.terms if self.layouts is None else self.layouts.terms
        used = terms.costs(network, policy.layers)
        return policy.check(network, terms.latency, used if policy.macs == terms.macs else None), used, footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """What the costs of a front are counted by beside the network."""

    terms: Terms = field(default_factory=Terms)
    layouts: Layouts | None = None
    """Of the network as C, where a cost or a limit is of what that takes."""

    @property
    def given(self) -> dict[str, Terms]:
        """For the method, which need not know of terms where there is no table."""
        return {} if self.terms == Terms() else {"terms": self.terms}

    def facts(self, under: _Under) -> dict[str, Any]:
        """For `config.json`: how C is written, where something is counted of that."""
        return {} if self.layouts is None else {"c_options": asdict(under.c_options), "rounding": under.rounding}

    def laid_out(self, front: Front, network: Network) -> Front:
        """The front of those policies whose layout as C is within the limits, with what their layouts take.

        Raises:
            InfeasibleBudget: there is none.
        """
        if self.layouts is None:
            return front
        fitting = [point for point in front.points if self.layouts.fits(self.layouts.lay_out(point.layers))]
        if not fitting:
            raise self.layouts.out_of_reach(None)
        points = [replace(one, costs=self.layouts.terms.cost_table(network, one.layers)) for one in fitting]
        gone = len(front.points) - len(points)
        note = f"{gone} of {len(front.points)} policies were left out: laid out as C, they take more than the limits"
        return replace(front, points=tuple(points), notes=[*front.notes, *([note] if gone else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Under:
    """The budget of a search, as it was asked for."""

    budget: Sequence[str] = ()
    pins: Mapping[str, LayerBits] = field(default_factory=dict)
    first_last: LayerBits | None = _ENDS_AT
    latency: Path | None = None
    c_options: COptions = C_OPTIONS
    rounding: GraphRounding = "single"

    def check(self, method: str) -> None:
        """A budget where the method searches under one, and nowhere else.

        Raises:
            BudgetError: it is missing, or has no effect.
        """
        kind = methods.info(method).kind
        if kind == "policy" and not self.budget:
            raise BudgetError(
                f"{method} searches under a budget, and there is none. Give --budget bitops=3x3 (in Python, "
                'budget=["bitops=3x3"]).'
            )
        if kind == "policy":
            check_c(Budget.parse(self.budget), self.c_options, self.rounding)
        of_tables = _Under(latency=self.latency, c_options=self.c_options, rounding=self.rounding)
        if (kind == "score" and self != _Under()) or (kind == "front" and self != of_tables):
            later = "mixbit allocate takes a policy" if kind == "score" else "mixbit front picks a policy"
            named = ", latency and options of C" if kind == "score" else ""
            raise BudgetError(
                f"{method} ends in a {'table of scores' if kind == 'score' else 'front'}, which serves every budget. "
                f"Leave budget, pins{',' if named else ' and'} first_last{named} out here: {later} from it within one."
            )

    def facts(self) -> dict[str, Any]:
        """For `config.json`; nothing where there is no budget."""
        if not self.budget:
            return {} if self.latency is None else {"latency": _io.digest(self.latency)}
        return {
            "budget": list(self.budget),
            "pins": {name: str(bits) for name, bits in self.pins.items()},
            "first_last": None if self.first_last is None else str(self.first_last),
            "latency": None if self.latency is None else _io.digest(self.latency),
            **({"c_options": asdict(self.c_options), "rounding": self.rounding} if self.is_on_device else {}),
        }

    @property
    def is_on_device(self) -> bool:
        """Whether a limit is of the network written as C."""
        return any(text.partition("=")[0].strip() in ON_DEVICE for text in self.budget)

    def asked(self, task: Task) -> _Asked | None:
        """The budget of this task's network; None where there is none.

        Raises:
            BudgetError: a limit or a pin that cannot be read, or is not of this network.
            ExportError: a limit of a device, and an operation that has no C.
        """
        if not self.budget:
            return None
        network, budget = task.network, Budget.parse(self.budget)
        terms = Terms(pins=resolve_pins(network, self.pins, self.first_last), latency=self._times(network))
        if not self.is_on_device:
            return _Asked(budget=budget, terms=terms, limits=terms.limits(network, budget))
        layouts = self._layouts(task, budget, terms)
        limits = layouts.terms.limits(network, budget)
        return _Asked(budget=budget, terms=terms, limits=limits, layouts=layouts)

    def _times(self, network: Network) -> LatencyTable | None:
        return None if self.latency is None else LatencyTable.load(self.latency).check(network)

    def _layouts(self, task: Task, budget: Budget, terms: Terms) -> Layouts:
        model, example = copy.deepcopy(task.model), task.example()
        lower = lower_at(model, task.network, example, rounding=self.rounding, apart=True)
        return Layouts(task.network, budget, lower, terms, options=self.c_options)

    def tables(self, method: Any, task: Task, *, first_last: bool = False) -> _Tables:
        """What a front's costs are counted by, for a method with these settings.

        Args:
            method: with its settings.
            task: whose network.
            first_last: whether the ends have a choice of bits as all layers.

        Raises:
            BudgetError: a table of another network, or options of C where nothing is counted of that.
            ExportError: a cost of a device, and an operation that has no C.
        """
        terms = Terms(latency=self._times(task.network))
        if terms != Terms() and "terms" not in inspect.signature(method.search).parameters:
            raise BudgetError(f"latency has no effect on {type(method).__name__}, whose search takes no terms.")
        limits = Budget.parse(getattr(method, "limits", ())) if getattr(method, "limits", ()) else Budget(())
        if not ({f"{kind}_bytes" for kind in ON_DEVICE} & set(getattr(method, "costs", ())) or is_on_device(limits)):
            if (self.c_options, self.rounding) != (C_OPTIONS, "single"):
                raise BudgetError(
                    "options of C have no effect: neither costs nor limits are of the network as C. Leave kernels, "
                    "pack_activations and rounding out, or weigh flash_bytes or ram_bytes (--set costs=[ram_bytes])."
                )
            return _Tables(terms=terms)
        layouts = self._layouts(task, limits, replace(terms, pins={}) if first_last else terms)
        return _Tables(terms=layouts.terms, layouts=layouts)


def search(
    subject: Subject,
    method: str,
    settings: Mapping[str, Any],
    run: Path,
    *,
    budget: Sequence[str] = (),
    pins: Mapping[str, LayerBits] | None = None,
    first_last: LayerBits | None = _ENDS_AT,
    latency: Path | None = None,
    c_options: COptions | None = None,
    rounding: GraphRounding = "single",
    task: Task | None = None,
    quiet: bool = False,
) -> Searched:
    """Run a method; a killed search goes on, and a finished one is only read.

    Args:
        subject: model, weights and data. For `qfa` the model may be the run folder of a supernet: nothing is trained
            then, and weights are its own.
        method: name, see `mixbit.methods.names`.
        settings: of the method; lists stand for tuples. The seed is the subject's. Beside them `kurtosis`, as for
            `train`: methods that train weights then train them with KURE.
        run: folder for config.json, network.json, what the method ends in (scores.json, policy.json or front.json) and,
            where the method trains, its checkpoint.
        budget: limits as text, for a method that searches under them, and for no other.
        pins, first_last: as for `mixbit.runs.allocate`, for such a method.
        latency, c_options, rounding: the same; a method that ends in a front counts its costs by them.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.

    Raises:
        BudgetError: a budget that cannot be read, is missing, or has no effect on this method.
        InfeasibleBudget: no policy meets it.
        StaleRun: the folder belongs to another search.
    """
    _distributed.start()
    under = _Under(
        budget=tuple(budget),
        pins=dict(pins or {}),
        first_last=first_last,
        latency=latency,
        c_options=C_OPTIONS if c_options is None else c_options,
        rounding=rounding,
    )
    if is_supernet(subject.model):
        return _search_in(subject, method, settings, run, under, quiet)
    term = KurtosisConfig.from_setting(settings.get(KURTOSIS))
    chosen = methods.make(method, {"seed": subject.seed, **{k: v for k, v in settings.items() if k != KURTOSIS}})
    if term is not None and methods.info(method).cost != "training":
        raise MixbitError(
            f"kurtosis={settings[KURTOSIS]!r} has no effect on {method}, which trains no weights. Train with it first "
            "(mixbit train ... --set kurtosis=1), and search from those weights."
        )
    under.check(method)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if task is None:  # before the folder is begun: a typo must not claim it
        task = subject.task()[0]
        try_out(task.model, task.test, task.objective, label_smoothing=getattr(chosen, "label_smoothing", None) or 0.0)
    task = regularised(task, term)
    asked = under.asked(task)
    kind = methods.info(method).kind
    ends = bool(getattr(chosen, "first_last", False))
    tables = under.tables(chosen, task, first_last=ends) if kind == "front" else _Tables()
    if isinstance(chosen, Qfa):
        chosen.genes(task, chosen, tables.terms)  # limits that nothing keeps must not claim the folder either,
        chosen.supernet().try_out(task)  # nor what cannot be trained
    _folder.begin(
        run,
        {
            "command": "search",
            "subject": subject.to_json(),
            "content": subject.content(),
            "method": method,
            "settings": plain,
            **under.facts(),
            **tables.facts(under),
        },
    )
    find = partial(chosen.search, **tables.given) if asked is None else partial(asked.search, chosen)
    found = None if (run / ENDS[kind]).exists() else find(task, run=run, quiet=quiet)
    found = tables.laid_out(found, task.network) if isinstance(found, Front) else found
    if _distributed.rank() == 0:
        # Also where the search is done: the file may be of an older version, or may count less than today's capture.
        _io.write_text(run / _folder.NETWORK, task.network.to_json())
        if found is not None:
            _with_weights(found, subject, run).save(run / ENDS[kind])  # last: its presence says that the search is done
    _distributed.barrier()
    return _read(run, kind, task.network, subject, asked)


def _search_in(
    subject: Subject, method: str, settings: Mapping[str, Any], run: Path, under: _Under, quiet: bool
) -> Searched:
    """Search among the sub-networks of the supernet whose run folder is the model."""
    source = Path(subject.model)
    if method != "qfa":
        raise MixbitError(
            f"{method} takes a model, and {source} is the run folder of a supernet, whose sub-networks qfa searches "
            "among. Give mixbit search qfa the folder, or the other method the model."
        )
    if subject.weights is not None:
        raise MixbitError(f"{source} is the run folder of a supernet and brings its own weights: leave --weights out.")
    for key, value in settings.items():
        if key not in EVOLUTION:
            raise MixbitError(
                f"{key}={value!r} has no effect: the supernet in {source} is trained already. Legal here: "
                f"{', '.join(EVOLUTION)}; and --seed, of the evolution."
            )
    under.check(method)
    chosen = read(Qfa, {"seed": subject.seed, **settings}, room=f"method {method!r}")
    opened = open_supernet(source, data=subject.data)
    tables = under.tables(chosen, opened.supernet.task, first_last=opened.supernet.settings.first_last)
    chosen.genes(opened.supernet.task, opened.supernet.settings, tables.terms)
    own, weights = replace(opened.subject, seed=subject.seed), opened.run / WEIGHTS
    facts = {"command": "search", "subject": own.to_json(), "content": _folder.read(opened.run).get(_folder.CONTENT)}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    facts |= {"method": method, "settings": plain, "supernet": _io.digest(weights)}
    _folder.begin(run, facts | under.facts() | tables.facts(under))
    done = (run / ENDS["front"]).exists()
    found = None if done else chosen.evolve(opened.supernet, run=run, quiet=quiet, **tables.given)
    found = None if found is None else tables.laid_out(found, opened.network)
    if _distributed.rank() == 0:
        _io.write_text(run / _folder.NETWORK, opened.network.to_json())
        if found is not None:
            found.save(run / ENDS["front"])
    _distributed.barrier()
    return _read(run, "front", opened.network, own, None)


def _with_weights(found: Scores | Policy | Front, subject: Subject, run: Path) -> Scores | Policy | Front:
    """A front with the subject's weights, where its method made none of its own."""
    if isinstance(found, Front) and found.weights is None and subject.weights is not None:
        return replace(found, weights=WeightsFile.of(subject.weights, run))
    return found


def _read(run: Path, kind: Kind, network: Network, subject: Subject, asked: _Asked | None) -> Searched:
    """What the search left, checked against the network."""
    path, files = run / ENDS[kind], _files(run, kind)
    try:
        result = _LOADERS[kind].load(path)
    except MixbitError as cause:
        remedy = "Take the file away, and the same search writes it anew from what its folder keeps."
        raise type(cause)(f"{cause} {remedy}") from cause
    if asked is None:
        result.check(network)
        return Searched(result=result, network=network, files=files, subject=subject)
    told = run / f"{result.method}-episodes.jsonl"
    if told.exists():
        files[told] = "one line an episode: policy, costs, reward"
    result, used, footprint = asked.counted(result, network)
    return Searched(
        result=result,
        network=network,
        files=files,
        subject=subject,
        budget=asked.budget,
        limits=asked.limits,
        pinned=tuple(asked.terms.pinned(network)),
        costs=used,
        footprint=footprint,
        episodes=tuple(read_episodes(told)),
    )


def _files(run: Path, kind: Kind) -> dict[Path, str]:
    files = {
        run / ENDS[kind]: _HOLDS[kind],
        run / _folder.NETWORK: "the captured network",
        run / _folder.CONFIG: "what was asked for",
    }
    if (run / _folder.METRICS).exists():
        files[run / _folder.METRICS] = "one line an epoch"
    return files
