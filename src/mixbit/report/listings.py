"""What there is to choose from: methods, networks of the zoo, kinds of data, targets of an export, attacks."""

from __future__ import annotations

from fnmatch import fnmatchcase

from mixbit.errors import MixbitError, did_you_mean
from mixbit.report.table import Table

__all__ = ["listing"]


_ENDS = {"score": "scores", "policy": "policy", "front": "front"}


def listing(what: str, pattern: str = "*") -> Table:
    """Names that match a shell pattern, one line each.

    Args:
        what: "methods", "models", "data", "targets" or "attacks".
        pattern: as a shell understands it, e.g. `resnet*`.

    Raises:
        MixbitError: another word, or nothing matches.

    >>> print(listing("methods", "limpq-*").plain())          # doctest: +ELLIPSIS
    Methods
    name        needs    ends in  what it is...
    ----------  -------  -------  ----------...
    limpq-init  ...
    """
    kinds = {"methods": _methods, "models": _models, "data": _data, "targets": _targets, "attacks": _attacks}
    if what not in kinds:
        raise MixbitError(f"There is no list of {what!r}.{did_you_mean(what, kinds)} Legal: {', '.join(kinds)}.")
    table = kinds[what](pattern)
    if not table.rows:
        raise MixbitError(f"No {what} match {pattern!r}. See them all: mixbit list {what}.")
    return table


def _methods(pattern: str) -> Table:
    from mixbit import methods

    infos = [methods.info(name) for name in methods.names(pattern)]
    rows = tuple((one.name, one.cost, _ENDS[one.kind], one.summary, one.source) for one in infos)
    note = (
        "needs: what a search costs, from nothing over forward passes and derivatives to training. ends in: scores and "
        "fronts serve every budget; a policy is searched under one."
    )
    return Table(
        title="Methods", columns=("name", "needs", "ends in", "what it is", "source"), rows=rows, notes=(note,)
    )


def _models(pattern: str) -> Table:
    from mixbit import models

    infos = [models.info(name) for name in models.names(pattern)]
    rows = tuple((one.name, "x".join(map(str, one.input_shape)), one.summary, one.paper) for one in infos)
    note = "Your own: package.module:factory or FILE.py:factory."
    return Table(title="Models", columns=("name", ">input", "what it is", "source"), rows=rows, notes=(note,))


def _data(pattern: str) -> Table:
    from mixbit import data

    rows = tuple(
        (f"{name}:{source.argument}" if source.argument else name, source.summary)
        for name, source in sorted(data.sources().items())
        if fnmatchcase(name, pattern)
    )
    note = "Options follow a question mark: imagefolder:DIR?size=160&workers=4."
    return Table(title="Data", columns=("spec", "what it reads"), rows=rows, notes=(note,))


def _targets(pattern: str) -> Table:
    from mixbit.export import exporter_names, find_exporter

    found = [find_exporter(name) for name in exporter_names(pattern)]
    rows = tuple((one.name, one.file, one.rounding, one.summary) for one in found)
    note = "Your own: mixbit.export.register_exporter."
    return Table(title="Targets", columns=("name", "written", "rounding", "what it is"), rows=rows, notes=(note,))


def _attacks(pattern: str) -> Table:
    from mixbit import attacks

    infos = [attacks.info(name) for name in attacks.names(pattern)]
    rows = tuple((one.name, one.access, one.summary, one.source) for one in infos)
    note = (
        "needs: gradients (networks in PyTorch; the points are tried on the others), scores or labels (every network). "
        "Settings follow a question mark: pgd?steps=40. Your own: mixbit.attacks.register."
    )
    return Table(title="Attacks", columns=("name", "needs", "what it does", "source"), rows=rows, notes=(note,))
