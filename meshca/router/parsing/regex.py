"""Whether a regular expression is one that Envoy's RE2 takes. Pure, and on the safe side: what passes here RE2 takes; it takes some more.

How: token by token, each must be of RE2's syntax. What Python spells otherwise is translated, and Python's own compiler judges the
structure of the whole. Counted repeats multiply where they are nested, as in RE2. The size of the program is estimated, never too low.

Envoy reads bytes, not characters (RE2 in Latin-1), so nothing but ASCII can be written; and it takes programs of up to 100 instructions
unless its runtime says otherwise: what makes bootstraps must put ENVOY_RUNTIME into it.
"""

import re
from dataclasses import dataclass, field

from meshca.errors import InvalidInput
from meshca.router.parsing.wording import shown

MAX_CHARACTERS = 1024
MAX_REPEAT = 1000
MAX_SIZE = 32_768
ENVOY_RUNTIME = {"re2.max_program_size.error_level": MAX_SIZE}
"""What Envoy's runtime must say, so that it takes what passes here."""

_CATEGORY = r"\\[pP](?:[LMNPSZ]|\{\^?(?:L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?)\})"
_POSIX = "alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit"
_ESCAPE = r"\\(?:[dDsSwWaftnrv]|x[0-9a-fA-F]{2}|[!-/:-@\[-^`{-~])"
_OUTSIDE = re.compile(
    rf"(?P<category>{_CATEGORY})|(?P<escape>{_ESCAPE})|(?P<end>\\z)|(?P<edge>\\[bBA]|[\^$])"
    r"|(?P<flags>\(\?(?:[imsU]+|[imsU]*-[imsU]+)\))|(?P<apart>\(\?[imsU]*(?:-[imsU]+)?:)"
    r"|(?P<open>\((?:\?P<[A-Za-z_][A-Za-z0-9_]*>|(?!\?)))|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?P<low>[0-9]{1,4})(?P<more>,(?P<high>[0-9]{1,4})?)?\})\??)"
    r"|(?P<set>\[\^?\]?)|(?P<dot>\.)|(?P<literal>[^\\\[(){*+?\x80-\U0010ffff])",
    re.DOTALL,
)
_IN_SET = re.compile(
    rf"(?P<category>{_CATEGORY})|(?P<posix>\[:\^?(?:{_POSIX}):\])|(?P<escape>{_ESCAPE})"
    r"|(?P<range>-(?!-))|(?P<close>\])|(?P<literal>[^\\\[\]\x80-\U0010ffff-])",
    re.DOTALL,
)
_SIZES = {"category": 40, "set": 2, "posix": 10, "escape": 10, "dot": 3, "literal": 3, "range": 4}
_GROUP_SIZE = 3
_SPELLINGS = {"category": r"\w", "posix": r"\w", "end": r"\Z", "flags": "(?:)", "apart": "(?:"}


def regular_expression(text: str) -> str:
    """The text, if RE2 takes it. Raises InvalidInput."""
    groups(text)
    return text


def groups(text: str) -> int:
    """How many groups an expression captures. Raises InvalidInput where RE2 does not take it."""
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise InvalidInput(f"a regular expression has 1 to {MAX_CHARACTERS} characters, not {len(text)}")
    try:
        return re.compile(_Scan(text).translated()).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{shown(text)} is no regular expression: {error}") from error


@dataclass(slots=True)
class _Part:
    """A part of an expression: how large it becomes, and how often the most repeated thing in it may be there."""

    size: int = 0
    repeats: int = 1
    last: "_Part | None" = None
    """What a repeat would apply to: None where there is nothing, or where it is repeated already."""

    def add(self, atom: "_Part") -> None:
        self.size += atom.size
        self.repeats = max(self.repeats, atom.repeats)
        self.last = atom


@dataclass(slots=True)
class _Scan:
    """One reading of an expression, from left to right."""

    text: str
    at: int = 0
    parts: list[_Part] = field(default_factory=lambda: [_Part()])

    def translated(self) -> str:
        """The expression in Python's spelling. Raises InvalidInput for what RE2 does not have, or what gets too large."""
        spelled = []
        while self.at < len(self.text):
            spelled.append(self._token())
            if sum(part.size for part in self.parts) > MAX_SIZE:
                raise self._refusal("it becomes too large")
        return "".join(spelled)

    def _token(self) -> str:
        token = self._next(_OUTSIDE)
        kind = str(token.lastgroup)
        if kind == "repeat":
            self._repeat(token)
        elif kind in {"open", "apart"}:
            self.parts.append(_Part(size=_GROUP_SIZE))
        elif kind == "close":
            self._close()
        elif kind in _SIZES:
            self.parts[-1].add(_Part(size=_SIZES[kind]))
        else:
            self.parts[-1].size += 1
            self.parts[-1].last = None
        return token[0] + self._set() if kind == "set" else _spelling(token)

    def _next(self, tokens: re.Pattern[str]) -> re.Match[str]:
        token = tokens.match(self.text, self.at)
        if token is None:
            rest = self.text[self.at : self.at + 4]
            raise self._refusal(f"RE2 does not know {shown(rest)}" if rest else "a set is not closed")
        self.at = token.end()
        return token

    def _close(self) -> None:
        if len(self.parts) == 1:
            raise self._refusal("a parenthesis too many")
        self.parts[-2].add(self.parts.pop())

    def _repeat(self, token: re.Match[str]) -> None:
        atom = self.parts[-1].last
        if atom is None:
            raise self._refusal(f"{token[0]} has nothing that it could repeat")
        times = max(1, int(token["high"] or token["low"] or 1))
        if atom.repeats * times > MAX_REPEAT:
            raise self._refusal(f"more than {MAX_REPEAT} repeats")
        self.parts[-1].add(_Part(size=atom.size * (times - 1) + times, repeats=atom.repeats * times))
        self.parts[-1].last = None

    def _set(self) -> str:
        """The rest of a set, whose start was read."""
        spelled = []
        while (token := self._next(_IN_SET)).lastgroup != "close":
            self.parts[-1].size += _SIZES[str(token.lastgroup)]
            spelled.append(_spelling(token) if token.lastgroup != "literal" else re.escape(token[0]))
        return "".join(spelled) + "]"

    def _refusal(self, why: str) -> InvalidInput:
        return InvalidInput(f"{shown(self.text)} is no regular expression: {why}")


def _spelling(token: re.Match[str]) -> str:
    return _SPELLINGS.get(str(token.lastgroup), token[0])
