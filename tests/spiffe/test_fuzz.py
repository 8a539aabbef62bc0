"""Whatever the bytes, a parser returns a value or raises the one exception that it promises.

Seeds and everything that fuzzing ever found are in tests/vectors/fuzz/, one directory for each parser.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe import InvalidBundle, InvalidID, InvalidSVID, SpiffeError, SpiffeID, TrustDomain, bundle_json, spiffe_id_of
from spiffe.x509svid import parse_der_chain, parse_pem_chain
from tests.vectors.regenerate import HERE

TD = TrustDomain("example.org")
Parser = Callable[[bytes], object]

PARSERS: dict[str, tuple[Parser, type[SpiffeError]]] = {
    "id": (lambda content: SpiffeID.parse(content.decode(errors="surrogateescape")), InvalidID),
    "pem": (lambda content: [spiffe_id_of(certificate) for certificate in parse_pem_chain(content)], InvalidSVID),
    "der": (lambda content: [spiffe_id_of(certificate) for certificate in parse_der_chain(content)], InvalidSVID),
    "bundle": (lambda content: bundle_json.parse(TD, content), InvalidBundle),
}
CORPUS = sorted(path for name in PARSERS for path in (HERE / "fuzz" / name).iterdir())

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a:UserWarning", "ignore:The parsed certificate:UserWarning")


def parse_or_refuse(name: str, content: bytes) -> None:
    parse, refusal = PARSERS[name]
    try:
        parse(content)
    except refusal as error:
        assert str(error)  # noqa: PT017 - most contents are refused, some are not


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_corpus_is_read_or_refused(path: Path):
    parse_or_refuse(path.parent.name, path.read_bytes())


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of the corpus with a few bytes changed, put in, taken out or doubled."""
    path = draw(st.sampled_from(CORPUS))
    content = path.read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 8)))
        content = content[:start] + draw(st.binary(max_size=8) | st.just(content[start:end] * 2)) + content[end:]
    return path.parent.name, content


@given(mutations())
def test_mutations_of_the_corpus_are_read_or_refused(mutation: tuple[str, bytes]):
    parse_or_refuse(*mutation)
