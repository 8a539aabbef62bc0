"""How what users wrote is shown back to them. Pure."""

import difflib
from collections.abc import Iterable

_LONGEST = 80


def shown(text: str) -> str:
    """The text quoted, on one line, and cut where somebody sent a flood."""
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A question to put behind a refusal, if something known is near, else nothing."""
    near = difflib.get_close_matches(text[:_LONGEST], sorted(known), n=1)
    return f", did you mean `{near[0]}`?" if near else ""
