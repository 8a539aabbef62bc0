r"""Expressions that Envoy takes: RE2 programs of limited size. Pure.

Rules:
- Envoy 1.40 refuses an expression whose program has more than 100 instructions, and with it the whole listener, unless its bootstrap
  says otherwise (tried). A byte of text is one instruction; a wildcard of ours is at most four.
- `\C`, any byte, stands where anything may follow: `.` knows no byte that is not UTF-8, and a CA that cheats may sign such (tried).
"""

import re
from enum import StrEnum

from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

_MOST = 100
_FRAME = 4
_WILDCARD = 4
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Wild(StrEnum):
    """What stands for anything: a segment (`PART`: or nothing), bytes of any number (`REST`: at least one)."""

    SEGMENT = "[!-.0-~]+"
    PART = "[!-.0-~]*"
    ANY = r"\C*"
    REST = r"\C+"


Piece = str | Wild


def fits(*pieces: Piece) -> bool:
    """Whether Envoy takes the expression of these texts and wildcards. On the safe side by a few."""
    costs = (_WILDCARD if isinstance(piece, Wild) else len(piece.encode()) for piece in pieces)
    return _FRAME + sum(costs) <= _MOST


def expression(*pieces: Piece) -> str:
    """The expression for these texts and wildcards one after the other."""
    return "".join(piece.value if isinstance(piece, Wild) else re.escape(piece) for piece in pieces)


def regex(text: str) -> StringMatcher:
    """The comparison of a whole text with an expression."""
    return StringMatcher(safe_regex=RegexMatcher(regex=text))


def fullmatch(text: str, subject: str) -> bool:
    r"""Whether the expression matches the whole subject, in Python, which has no `\C`."""
    python = _ESCAPE.sub(lambda found: "(?s:.)" if found[1] == "C" else found[0], text)
    return re.fullmatch(python, subject) is not None
