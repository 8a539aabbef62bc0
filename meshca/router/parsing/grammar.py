"""Texts that must follow a grammar: each function returns the text as we keep it, or raises InvalidInput. Pure.

Rules: the whole text is matched, in ASCII. Bounds and alphabets are those of Kubernetes, of HTTP, and of what Envoy 1.40 takes.
"""

import ipaddress
import re
from collections.abc import Callable

from meshca.errors import InvalidInput
from meshca.router.parsing.header_format import check_format
from meshca.router.parsing.wording import did_you_mean, shown

MAX_HOST = 253
MAX_HEADER = 16_384
MAX_PATH = 1024
MAX_PORT = 65_535

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_METHOD = re.compile(r"[A-Z][A-Z-]*")
_PSEUDO = {"method", "authority", "scheme", "uri"}
_RETRY_ON = (
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx"),
    *("refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure"),
    *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)


def _matching(pattern: re.Pattern[str], what: str, longest: int) -> Callable[[str], str]:
    """A check of the whole text against a pattern."""

    def check(text: str) -> str:
        if len(text) > longest or not pattern.fullmatch(text):
            raise InvalidInput(f"{shown(text)} is not {what}")
        return text

    return check


name = _matching(_HOST, "a name of lower-case letters, digits, - and .", MAX_HOST)
dns_label = _matching(re.compile(_LABEL), "a name of at most 63 lower-case letters, digits and -", 63)
authority = _matching(_AUTHORITY, "a host, with or without a port", MAX_HOST + 6)
method = _matching(_METHOD, "a method such as GET, in upper case", 64)


def host(text: str) -> str:
    """A host name, in lower case."""
    if len(text) > MAX_HOST or not _HOST.fullmatch(text.lower()):
        raise InvalidInput(f"{shown(text)} is not a host name")
    return text.lower()


def host_or_wildcard(text: str) -> str:
    """A host name, or `*.` and one."""
    if text == "*":
        raise InvalidInput("'*' would be every host: name one, or `*.` and a domain")
    return "*." + host(text[2:]) if text.startswith("*.") else host(text)


def ip_address(text: str) -> str:
    """An IP address, in its shortest spelling."""
    try:
        return str(ipaddress.ip_address(text.replace("%", " ")))  # Envoy takes no address of one link only
    except ValueError as error:
        raise InvalidInput(f"{shown(text)} is not an IP address") from error


def label_key(text: str) -> str:
    """The key of a label: a name, with or without a domain before it."""
    domain, slash, key = text.rpartition("/")
    if not _LABEL_PART.fullmatch(key) or (slash and not (len(domain) <= MAX_HOST and _HOST.fullmatch(domain))):
        raise InvalidInput(f"{shown(text)} is not the key of a label")
    return text


def label_value(text: str) -> str:
    """The value of a label, which may be empty."""
    if text and not _LABEL_PART.fullmatch(text):
        raise InvalidInput(f"{shown(text)} is not the value of a label")
    return text


def port(text: str) -> int:
    """A port number that is written as text."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > MAX_PORT:
        raise InvalidInput(f"{shown(text)} is not a port number from 1 to {MAX_PORT}")
    return int(text)


def header_name(text: str) -> str:
    """The name of a header, in lower case. Pseudo headers have no place among them."""
    if text.startswith(":"):
        raise InvalidInput(f"{shown(text)} is not a header: there are method, authority, scheme and uri beside this")
    if len(text) > MAX_HEADER or not _TOKEN.fullmatch(text):
        raise InvalidInput(f"{shown(text)} is not the name of a header")
    return text.lower()


def matched_header(text: str) -> str:
    """The name of a header to match. Istio ignores those that have fields of their own."""
    if text in _PSEUDO:
        raise InvalidInput(f"Istio ignores {shown(text)} as a header: write it beside `headers`")
    return header_name(text)


def changed_header(text: str) -> str:
    """The name of a header to change. Envoy lets nobody change `host` or a pseudo header."""
    if text.startswith(":") or text.lower() == "host":
        raise InvalidInput(f"{shown(text)} can not be changed like a header")
    return header_name(text)


def header_value(text: str) -> str:
    """A header value as Envoy formats it: commands between percent signs, and `%%` for one."""
    if len(text) > MAX_HEADER or re.search(r"[\x00\r\n]", text):
        raise InvalidInput(f"{shown(text)} is not the value of a header")
    check_format(text)
    return text


def literal_value(text: str) -> str:
    """A header value that means just what it says, as Envoy must be told it."""
    return header_value(text.replace("%", "%%"))


def target(text: str) -> str:
    """An absolute path, with or without a query."""
    if not text.startswith("/"):
        raise InvalidInput(f"{shown(text)} does not start with /")
    if len(text) > MAX_HEADER or re.search(r"[\x00\r\n]", text):
        raise InvalidInput(f"{shown(text)} is not a path")
    return text


def path(text: str) -> str:
    """An absolute path without query."""
    if "?" in text or "#" in text:
        raise InvalidInput(f"{shown(text)} has ? or #, which are never in a path")
    return target(text)


def retry_condition(text: str) -> str:
    """Something to retry on: a name that Envoy knows, or a status code."""
    if text in _RETRY_ON or re.fullmatch("[1-5][0-9][0-9]", text):
        return text
    raise InvalidInput(f"{shown(text)} is nothing to retry on{did_you_mean(text, _RETRY_ON)}")


def pattern(text: str) -> str:
    """A value that may have one `*`, first or last."""
    if not text:
        raise InvalidInput("is empty")
    if "*" in text[1:-1] or text.count("*") > 1:
        raise InvalidInput(f"{shown(text)} may have one *, as its first or last character")
    return text


def path_pattern(text: str) -> str:
    """A path that may have one `*` at an end, or a template with whole segments `{*}` and, last of these, `{**}`."""
    if not text.startswith(("/", "*")):
        raise InvalidInput(f"{shown(text)} matches no path: it starts neither with / nor with *")
    if "{" not in text and "}" not in text:
        return pattern(text)
    segments = text.split("/")
    operators = [segment for segment in segments if segment in {"{*}", "{**}"}]
    literal = "".join(segment for segment in segments if segment not in operators)
    if "{**}" in operators[:-1] or re.search(r"[{}*]", literal):
        raise InvalidInput(
            f"{shown(text)} is no path template: whole segments may be {{*}}, and the last of these {{**}}"
        )
    return text


def tag(text: str) -> str:
    """The name of a tag of a span."""
    if not text or len(text) > MAX_HOST or not text.isprintable():
        raise InvalidInput(f"{shown(text)} is not the name of a tag")
    return text
