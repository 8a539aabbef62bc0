import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spiffe import InvalidID, SpiffeID, TrustDomain

LOWER = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
NAME = LOWER + DIGITS + ".-_"
SEGMENT = NAME + LOWER.upper()

names = st.text(NAME, min_size=1, max_size=40)
segments = st.text(SEGMENT, min_size=1, max_size=20).filter(lambda segment: segment not in {".", ".."})
paths = st.lists(segments, max_size=5).map(lambda parts: "".join(f"/{part}" for part in parts))


def is_legal(text: str) -> bool:
    """An oracle written apart: one character after the other, as ABNF reads, without any regular expression."""
    if text[:9] != "spiffe://" or len(text) > 2048:
        return False
    name, *parts = text[9:].split("/")
    name_is_legal = 1 <= len(name) <= 255 and all(character in NAME for character in name)
    parts_are_legal = all(part not in {"", ".", ".."} and all(c in SEGMENT for c in part) for part in parts)
    return name_is_legal and parts_are_legal


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        pytest.param("spiffe://example.org", "example.org", "", id="3.5 row 1: a trust domain"),
        pytest.param("spiffe://example.org/web", "example.org", "/web", id="ID-01"),
        pytest.param("spiffe://127.0.0.1/a", "127.0.0.1", "/a", id="ID-11 IPv4-like"),
        pytest.param("spiffe://under_score.example/a", "under_score.example", "/a", id="ID-11 underscore"),
        pytest.param("spiffe://-/a", "-", "/a", id="ID-11 dash"),
        pytest.param("spiffe://.../a", "...", "/a", id="ID-11 dots"),
        pytest.param("spiffe://xn--exmple-cua.org/a", "xn--exmple-cua.org", "/a", id="ID-11 no IDNA"),
        pytest.param("spiffe://example.org/...", "example.org", "/...", id="ID-15 three dots"),
        pytest.param("spiffe://example.org/.a/..b/c..", "example.org", "/.a/..b/c..", id="ID-15 dots in names"),
        pytest.param("spiffe://example.org/a/b/c", "example.org", "/a/b/c", id="ID-18"),
        pytest.param("spiffe://td/" + "a" * 2036, "td", "/" + "a" * 2036, id="ID-19 2048 bytes"),
        pytest.param("spiffe://" + "a" * 255 + "/b", "a" * 255, "/b", id="ID-21 255 bytes"),
    ],
)
def test_a_legal_id_is_read_and_written_unchanged(text: str, name: str, path: str):
    spiffe_id = SpiffeID.parse(text)

    assert spiffe_id == SpiffeID(trust_domain=TrustDomain(name), path=path)
    assert str(spiffe_id) == text
    assert spiffe_id.is_workload is bool(path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("https://td/x", id="ID-01 https"),
        pytest.param("spiffe:/td/x", id="ID-01 one slash"),
        pytest.param("td/x", id="ID-01 none"),
        pytest.param("", id="ID-01 empty"),
        pytest.param("SPIFFE://td/x", id="ID-01 uppercase scheme (D-01)"),
        pytest.param("spiffe:///x", id="ID-02"),
        pytest.param("spiffe://", id="ID-02 nothing"),
        pytest.param("spiffe://td/x?a", id="ID-03"),
        pytest.param("spiffe://td/x?", id="ID-03 empty query"),
        pytest.param("spiffe://td?a", id="ID-03 after the trust domain"),
        pytest.param("spiffe://td/x#a", id="ID-04"),
        pytest.param("spiffe://td/x#", id="ID-04 empty fragment"),
        pytest.param("spiffe://@/x", id="ID-05 userinfo only"),
        pytest.param("spiffe://:1/x", id="ID-05 port only"),
        pytest.param("spiffe://u@td/x", id="ID-06"),
        pytest.param("spiffe://@td/x", id="ID-06 empty userinfo"),
        pytest.param("spiffe://td:1/x", id="ID-07"),
        pytest.param("spiffe://td:/x", id="ID-07 empty port"),
        pytest.param("spiffe://Example.org/x", id="ID-08"),
        pytest.param("spiffe://t\u212a/x", id="ID-08 Kelvin sign"),
        pytest.param("spiffe://t!d/x", id="ID-09"),
        pytest.param("spiffe://ex\u00e4mple.org/x", id="ID-09 not ASCII"),
        pytest.param("spiffe://td\u0661/x", id="ID-09 Arabic digit"),
        pytest.param("spiffe://td\n/x", id="ID-09 newline"),
        pytest.param("spiffe://td%2e/x", id="ID-10"),
        pytest.param("spiffe://[::1]/x", id="ID-12"),
        pytest.param("spiffe://td/%61", id="ID-13"),
        pytest.param("spiffe://td//a", id="ID-14 first"),
        pytest.param("spiffe://td/a//b", id="ID-14 middle"),
        pytest.param("spiffe://td/./a", id="ID-15 dot"),
        pytest.param("spiffe://td/a/..", id="ID-15 dot dot"),
        pytest.param("spiffe://td/", id="ID-16 after the trust domain"),
        pytest.param("spiffe://td/a/", id="ID-16"),
        pytest.param("spiffe://td/a+b", id="ID-17 plus"),
        pytest.param("spiffe://td/a~b", id="ID-17 tilde"),
        pytest.param("spiffe://td/a:b", id="ID-17 colon"),
        pytest.param("spiffe://td/a@b", id="ID-17 at"),
        pytest.param("spiffe://td/a b", id="ID-17 blank"),
        pytest.param("spiffe://td/a\n", id="ID-17 newline at the end"),
        pytest.param("spiffe://td/a\x00", id="ID-17 zero byte"),
        pytest.param("spiffe://td/a ", id="ID-17 blank at the end"),
        pytest.param(" spiffe://td/a", id="ID-01 blank before"),
        pytest.param("spiffe://td/\u0430dmin", id="ID-17 Cyrillic a"),
        pytest.param("spiffe://td/" + "a" * 2037, id="ID-20 2049 bytes"),
        pytest.param("spiffe://td/" + "a" * 100_000, id="ID-20 a flood"),
        pytest.param("spiffe://" + "a" * 256 + "/b", id="ID-21 256 bytes"),
    ],
)
def test_an_illegal_id_is_refused_with_the_row_it_breaks(text: str):
    assert not is_legal(text)
    with pytest.raises(InvalidID, match=r"\(ID-\d\d") as refusal:
        SpiffeID.parse(text)
    assert len(str(refusal.value)) < 700  # a flood is cut


@given(names, paths)
@example("a" * 255, "/" + "b" * 1783)
def test_every_id_of_the_grammar_round_trips(name: str, path: str):
    text = f"spiffe://{name}{path}"

    assert is_legal(text)
    assert str(SpiffeID.parse(text)) == text


@given(st.one_of(st.text(), st.text("spiffe:/.aA0-_ %?#@\n\u212a", max_size=30)).map(lambda text: f"spiffe://{text}"))
def test_the_parser_agrees_with_an_oracle_on_any_text(text: str):
    try:
        parsed = str(SpiffeID.parse(text))
    except InvalidID:
        assert not is_legal(text)
    else:
        assert is_legal(text)
        assert parsed == text


@pytest.mark.parametrize("text", ["example.org", "spiffe://example.org"])
def test_a_trust_domain_is_read_from_its_name_and_from_its_id(text: str):
    trust_domain = TrustDomain.parse(text)

    assert str(trust_domain) == "example.org"
    assert str(trust_domain.id) == "spiffe://example.org"


@pytest.mark.parametrize("text", ["", "spiffe://", "spiffe://example.org/", "spiffe://example.org/web", "a b"])
def test_what_is_more_or_less_than_a_trust_domain_is_refused(text: str):
    with pytest.raises(InvalidID):
        TrustDomain.parse(text)


def test_a_path_without_slash_is_refused():
    with pytest.raises(InvalidID, match=re.escape("'web' does not start with / (ID-14)")):
        SpiffeID(trust_domain=TrustDomain("td"), path="web")


def test_equality_is_exact_and_within_one_type():
    """ID-22: paths that differ in case are two identities."""
    web = SpiffeID.parse("spiffe://td/a")

    assert web != SpiffeID.parse("spiffe://td/A")
    assert web != "spiffe://td/a"
    assert TrustDomain("td") != "td"
    assert sorted([web, SpiffeID.parse("spiffe://a/z")])[1] is web
