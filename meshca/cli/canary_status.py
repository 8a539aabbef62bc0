"""What `meshca canary status` and `watch` show of the router's answers."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import RenderableType

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import Format
from meshca.cli.output import emit_event, remark, rows
from meshca.cli.values import format_duration, printable

Json = dict[str, Any]

LOOK_SECONDS = 0.2
TAKES_NOTICE_SECONDS = 10.0
"""How long a router may need to read what was written."""
_LIVE = {"running", "paused", None}


def of_host(canaries: Iterable[Json], host: str) -> list[Json]:
    """Those of a host; all if it is empty."""
    return [each for each in canaries if not host or host in each["hosts"]]


def tables(canaries: Iterable[Json], now: datetime) -> list[RenderableType]:
    """For eyes: problems first."""
    known = list(canaries)
    problems: list[RenderableType] = [
        f"PROBLEM: {printable(each['object'])}: {printable(each['problem'])}" for each in known if each["problem"]
    ]
    cells = (
        (
            each["hosts"],
            each["to"],
            each["phase"] or "not begun",
            f"{each['weight']} %",
            share(each),
            failed(each),
            each["seen"]["reporters"] or "",
            _next(each, now),
            each["waits_for"] or each["reason"],
        )
        for each in known
    )  # fmt: skip
    titles = ["HOST", "TO", "PHASE", "ASKED", "ACHIEVED", "FAILED", "REPORTERS", "NEXT STEP IN", "WHY"]
    return [*problems, rows(titles, cells)]


def share(canary: Json) -> str:
    """The share that came about."""
    found = canary["seen"]["share"]
    return "" if found is None else f"{found:.2f} %"


def failed(canary: Json) -> str:
    """What failed of the requests to the new version."""
    seen = canary["seen"]
    return f"{seen['errors']} of {seen['requests']} ({seen['error_rate']:.2f} %)" if seen["requests"] else ""


def _next(canary: Json, now: datetime) -> str:
    if canary["phase"] != "running" or canary["next_step"] is None:
        return ""
    left = datetime.fromisoformat(canary["next_step"]) - now
    return format_duration(max(left, timedelta()))


def follow(
    ask: Callable[[], list[Json]],
    label: str,
    since: datetime | None,
    output: Format,
    patience: float = TAKES_NOTICE_SECONDS,
) -> str:
    """Print one line at each report and each change, until the ramp is over; return how it ended.

    With `since`, what was before is not this ramp, and the router has `patience` (seconds) to find it. Raises Failure.
    """
    shown: object = None
    deadline = time.monotonic() + patience
    for canaries in _answers(ask):
        found = _latest(canaries, label, since)
        if found is None and shown is None and time.monotonic() > deadline:
            text = f"the router does not know this ramp of {label}: does it watch this directory?"
            raise Failure(Exit.NOT_FOUND, text)
        if found is not None:
            news = [found[name] for name in ("phase", "weight", "since", "problem")] + [found["seen"]["last_report"]]
            if news != shown:
                shown = news
                emit_event(found, output, _line(found))
            if found["phase"] not in _LIVE:
                return str(found["phase"])
    raise AssertionError("there is no end of answers")


def _answers(ask: Callable[[], list[Json]]) -> Iterator[list[Json]]:
    """What the router says, again and again. One that answered and does so no more is waited for, which is told once."""
    is_known = is_gone = False
    while True:
        try:
            canaries = ask()
            is_known, is_gone = True, False
        except Failure as failure:
            if not is_known or failure.code is not Exit.UNREACHABLE:
                raise
            if not is_gone:
                remark("the router does not answer: waiting for it")
            canaries, is_gone = [], True
        yield canaries
        time.sleep(LOOK_SECONDS)


def _latest(canaries: list[Json], label: str, since: datetime | None) -> Json | None:
    found = next((each for each in canaries if each["object"] == label), None)
    if found is None or since is None:
        return found
    limit = since - timedelta(milliseconds=1)  # it is written to the millisecond
    is_older = found["since"] is None or datetime.fromisoformat(found["since"]) < limit
    return None if is_older else found


def _line(canary: Json) -> str:
    at = datetime.fromisoformat(canary["seen"]["last_report"] or canary["seen"]["since"]).astimezone(UTC)
    parts = [f"{at:%H:%M:%SZ} {canary['to']} {canary['phase'] or 'not begun'}: asked {canary['weight']} %"]
    parts += [f"achieved {share(canary)}"] if share(canary) else []
    parts += [f"failed {failed(canary)}"] if failed(canary) else []
    parts += [why] if (why := canary["problem"] or canary["waits_for"] or canary["reason"]) else []
    return ", ".join(parts)
