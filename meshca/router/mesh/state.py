"""From what was read to what is served: the last good state of each object stays until a better one is there. Pure.

Rules:
- A file that can not be read at all keeps all that it said when it last could; a broken object keeps its last good version; an object
  whose references lead nowhere now keeps the version whose references did, if that still holds.
- An object that nobody wrote any more is gone, but only if every file can be read: it may have moved to one that can not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshca.router.mesh.objects import Object, Origin, Parsed, Problem, ServiceEntry
from meshca.router.mesh.table import DEFAULT_DOMAIN, Table, build


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is served. `good` has the objects behind it by label; `problems` is all that is wrong with what was read last."""

    good: Mapping[str, Object] = field(default_factory=dict)
    table: Table = field(default_factory=Table)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def following(before: State, parsed: Parsed, domain: str = DEFAULT_DOMAIN) -> State:
    """The state after reading this."""
    admitted, waiting = _admitted(before, parsed)
    wanted = _kept(before, parsed.problems) | _by_label(admitted)
    table = build(tuple(wanted.values()), domain, before.table)
    unresolved = {problem.label for problem in table.problems}
    older = {
        label: before.good[label] for label in unresolved & before.good.keys() if before.good[label] != wanted[label]
    }
    good = wanted
    if older:
        good = wanted | older
        second = build(tuple(good.values()), domain, before.table)
        unresolved = {problem.label for problem in second.problems}
        table, problems = second, table.problems
    else:
        problems = table.problems
    return State(
        good={label: each for label, each in good.items() if label not in unresolved},
        table=table,
        problems=(*parsed.problems, *waiting, *problems),
        warnings=(*parsed.warnings, *table.warnings),
    )


def _admitted(before: State, parsed: Parsed) -> tuple[list[Object], list[Problem]]:
    """The objects that may be served, and what waits: no new host while there is a file that may hold the policies for it."""
    is_blind = bool(before.good) and any(not problem.label for problem in parsed.problems)
    admitted: list[Object] = []
    waiting: list[Problem] = []
    for each in parsed.objects:
        if is_blind and isinstance(each, ServiceEntry) and not before.table.services.keys() >= set(each.hosts):
            waiting.append(_waits(each.origin))
        else:
            admitted.append(each)
    return admitted, waiting


def _waits(origin: Origin) -> Problem:
    text = "waits until every file can be read: one that can not may hold its policies"
    return Problem(file=origin.file, line=origin.line, label=origin.label, field="spec.hosts", text=text)


def _by_label(objects: Iterable[Object]) -> dict[str, Object]:
    return {each.origin.label: each for each in objects}


def _kept(before: State, problems: Iterable[Problem]) -> dict[str, Object]:
    """What was good before and is broken now. It is overruled by what is good now."""
    labels = {problem.label for problem in problems}
    if "" in labels:  # nobody knows what stands in a file that can not be read: a policy may have moved there
        return dict(before.good)
    return {label: each for label, each in before.good.items() if label in labels}
