"""Regular expressions: what we let through, the real Envoy takes."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import InvalidInput
from meshca.router.parsing.header_format import check_format
from meshca.router.parsing.regex import ENVOY_RUNTIME, MAX_CHARACTERS, groups, regular_expression

ENVOY = next(Path(sys.prefix).glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)

GOOD = [
    *("/api/v[0-9]+/.*", "a|b|", "(a|b)*c", "(|a)", "()", "x}", "^(.*?;)?(user=jason)(;.*)?$", r"^/x$|\A.\z", "a\nb"),
    *("(?i)abc", "(?i-s:a)(?-i)b", "(?U)a+", "(?s).*", "(?P<name>a+)b", "((((a))))", "a*?b+?c??", "(a*)*", "(a*)+"),
    *("[[:alpha:]]+[^[:digit:]]", r"\pL+\p{Lu}\P{N}\p{^Nd}", r"[\pL\d]", r"[\d\-.]+", "[]a]", "[^]a]", "[,-/]", "[!-~]"),
    *("[a-z-9]", "[a&&b]", "[a||b]", "[a~~b]", r"a\/b\.c\-d", r"\x41\xff", r"\t\n\r\f\v\a", r"\d\D\w\W\s\S\b\B"),
    *("a{2,5}?b{3}c{1,}", "a{0}", "a{0,0}", "(?:a{10}){100}", "(?:(?:a{10}){10}){10}", ".{1000}", r"\w{1000}", "[a-z]{1000}"),
    *("(?i)[a-z]{900}", "(?:a?){1000}", r"(?:\w{9}){100}", r"\pL{700}", "(?:[a-z]{30}){30}", "x" * MAX_CHARACTERS),
]  # fmt: skip

BAD = [
    *("", "x" * (MAX_CHARACTERS + 1), "(a", "a)", "[a", "[", "[z-a]", r"[a-\d]", "*a", "a|*", "(*a)", "a{2,1}", "\\"),
    *("(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\8", "(?P=x)", "(?P<x", "(?(1)a)", "(?>a)", "a++", "a*+", "a?+"),
    *("a**", "a{1}{2}", "(?#c)", "(?x)a", "(?a)a", "(?i", "(?i)*", "(?)", r"\Z", r"\u1234", r"\N{DASH}", r"\p{Foo}", r"\pX"),
    *("[[:foo:]]", "[[=a=]]", "a{1001}", "(a{100}){11}", "(?:(?:a{10}){20}){10}", r"(?:[a-z]{30}){30}\pL{900}", "é", "[é]"),
    *(r"\é", r"\x{263a}", r"\xZZ"),
]  # fmt: skip

FORMATS = ["", "plain", "100%%", "%REQ(x-y)%", "%REQ(:path?x):10%", "a %DOWNSTREAM_PEER_URI_SAN% b", "%UPSTREAM_HOST%"]


def envoy_takes(path: Path, routes: list[dict[str, Any]]) -> str:
    """Return what Envoy has against the routes, and nothing if it takes them."""
    kinds = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{kinds}.http.router.v3.Router"}}
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "a",
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": routes}]},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    runtime = {"layers": [{"name": "static", "static_layer": ENVOY_RUNTIME}]}
    path.write_text(json.dumps({"layered_runtime": runtime, "static_resources": {"listeners": [listener]}}))
    command = [str(ENVOY), "--mode", "validate", "-c", str(path), "-l", "error"]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    return verdict.stderr if verdict.returncode else ""


@pytest.mark.envoy
def test_envoy_takes_every_expression_and_every_format_that_we_let_through(tmp_path: Path):
    routes: list[dict[str, Any]] = [
        {"match": {"safe_regex": {"regex": regex}}, "direct_response": {"status": 200}} for regex in GOOD
    ]
    formats = [{"header": {"key": "x", "value": value}} for value in FORMATS]
    assert envoy_takes(tmp_path / "envoy.json", [*routes, {**routes[0], "request_headers_to_add": formats}]) == ""


@pytest.mark.parametrize("regex", GOOD)
def test_what_re2_has_is_let_through(regex: str):
    assert regular_expression(regex) == regex


@pytest.mark.parametrize("regex", BAD)
def test_what_re2_does_not_have_or_what_gets_too_large_is_refused(regex: str):
    with pytest.raises(InvalidInput, match="regular expression"):
        regular_expression(regex)


@pytest.mark.parametrize(
    ("regex", "text"),
    [
        ("a(?=b)", "'a(?=b)' is no regular expression: RE2 does not know '(?=b'"),
        ("a)", "'a)' is no regular expression: a parenthesis too many"),
        ("a**", "'a**' is no regular expression: * has nothing that it could repeat"),
        ("(a{100}){11}", "'(a{100}){11}' is no regular expression: more than 1000 repeats"),
        (r"(\pL{50}){20}", r"'(\\pL{50}){20}' is no regular expression: it becomes too large"),
        ("[b-a]", "'[b-a]' is no regular expression: bad character range b-a at position 1"),
    ],
)
def test_the_refusal_says_why(regex: str, text: str):
    with pytest.raises(InvalidInput) as caught:
        regular_expression(regex)
    assert str(caught.value) == text


def test_only_capturing_groups_count():
    assert groups("(a)(?:b)(?P<c>c)(?i)") == 2


@given(st.text(alphabet="ab()[]{}*+?|^$\\.:-,1dpLPiQ<>=!#&~ é", max_size=20))
def test_no_expression_whatever_raises_anything_else(text: str):
    with suppress(InvalidInput):
        regular_expression(text)


@pytest.mark.parametrize("text", FORMATS)
def test_a_header_may_have_commands_that_envoy_knows(text: str):
    check_format(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50%", "'50%' has a % that starts no command: write %% for a percent sign"),
        ("%a b%", "'%a b%' has a % that starts no command: write %% for a percent sign"),
        ("%REQ%", "%REQ% needs a name, such as %REQ(x)%"),
        ("%PROTOCOL(x)%", "%PROTOCOL% takes no name"),
        ("%PROTOCOLS%", "%PROTOCOLS% is not a command for routes, did you mean `PROTOCOL`?"),
        ("%ENVIRONMENT(HOME)%", "%ENVIRONMENT% is not a command for routes"),
    ],
)
def test_a_header_may_not_have_others(text: str, expected: str):
    with pytest.raises(InvalidInput) as caught:
        check_format(text)
    assert str(caught.value) == expected
