"""Trust domains and SPIFFE IDs as values (SPIFFE-ID standard, checklist ID-01 to ID-22).

Rules:
- A value that exists is valid: parsing is the only way in, and it is strict. Nothing is trimmed, decoded or folded (D-01).
- The grammar is matched whole and in ASCII, never with `$`, word classes or `lower()`: each of these lets something through.
- Equality is exact and holds only between values of one type.
"""

import re
from dataclasses import dataclass
from typing import Self

from spiffe.errors import InvalidID

SCHEME = "spiffe://"
MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of one root of trust, such as `example.org`. Raises InvalidID when the name is not legal."""

    name: str

    def __post_init__(self) -> None:
        """Hold the grammar of ID-02, ID-08 to ID-12 and the length of ID-21."""
        if not self.name:
            raise InvalidID("trust domain is empty (ID-02)")
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise InvalidID(f"trust domain has {len(self.name)} bytes, the limit is {MAX_TRUST_DOMAIN_BYTES} (ID-21)")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidID(f"trust domain {self.name!r} has characters other than a-z 0-9 . - _ (ID-09)")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a bare name (`example.org`) or a trust domain ID (`spiffe://example.org`). Raises InvalidID."""
        return cls(text.removeprefix(SCHEME))

    @property
    def id(self) -> "SpiffeID":
        """The ID of the trust domain itself: no path."""
        return SpiffeID(trust_domain=self)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeID:
    """One SPIFFE ID. `path` is empty for the trust domain itself, else starts with `/`. Raises InvalidID."""

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        """Hold the grammar of ID-13 to ID-18 and the length of ID-20."""
        if self.path:
            _check_path(self.path)
        length = len(SCHEME) + len(self.trust_domain.name) + len(self.path)
        if length > MAX_ID_BYTES:
            raise InvalidID(f"SPIFFE ID has {length} bytes, the limit is {MAX_ID_BYTES} (ID-20)")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an ID such as `spiffe://example.org/web`. Raises InvalidID with the rule that failed."""
        if not text.startswith(SCHEME):
            raise InvalidID(f"SPIFFE ID {_shown(text)} does not start with {SCHEME} (ID-01)")
        name, slash, path = text.removeprefix(SCHEME).partition("/")
        try:
            return cls(trust_domain=TrustDomain(name), path=slash + path)
        except InvalidID as error:
            raise InvalidID(f"SPIFFE ID {_shown(text)}: {error}") from error

    @property
    def is_workload(self) -> bool:
        """Whether the ID may name a workload: only one with a path may (X5-04)."""
        return bool(self.path)

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


def _check_path(path: str) -> None:
    """Raise InvalidID unless the path is one or more legal segments."""
    if not path.startswith("/"):
        raise InvalidID(f"path {_shown(path)} does not start with / (ID-14)")
    for segment in path[1:].split("/"):
        if not segment:
            raise InvalidID(f"path {_shown(path)} has an empty segment or ends with / (ID-14, ID-16)")
        if segment in {".", ".."}:
            raise InvalidID(f"path {_shown(path)} has a dot segment (ID-15)")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidID(f"path segment {_shown(segment)} has characters other than A-Z a-z 0-9 . - _ (ID-17)")


def _shown(text: str) -> str:
    """The text as an error may show it: quoted, and cut where somebody sent a flood."""
    return repr(text if len(text) <= 120 else text[:120] + "…")  # noqa: PLR2004 - one line of a terminal
