"""Header values in Envoy's format: text, commands between percent signs, and `%%` for a percent sign. Pure.

Rules: only commands that Envoy 1.40 takes in a header, and of these only what a route may need: nothing of the proxy's own environment,
files or secrets, which whoever writes a route has no business with.
"""

import re

from meshca.errors import InvalidInput
from meshca.router.parsing.wording import did_you_mean, shown

_PLAIN = frozenset({
    *("CONNECTION_ID", "DURATION", "GRPC_STATUS", "GRPC_STATUS_NUMBER", "HOSTNAME", "PATH", "PROTOCOL", "REQUESTED_SERVER_NAME"),
    *("REQUEST_DURATION", "RESPONSE_CODE", "RESPONSE_DURATION", "RESPONSE_FLAGS", "RESPONSE_FLAGS_LONG", "ROUTE_NAME"),
    *("SPAN_ID", "START_TIME", "STREAM_ID", "TRACE_ID", "UNIQUE_ID", "VIRTUAL_CLUSTER_NAME"),
    *(f"{side}_{what}" for side in ("DOWNSTREAM", "UPSTREAM") for what in (
        *("LOCAL_ADDRESS", "LOCAL_ADDRESS_WITHOUT_PORT", "LOCAL_PORT", "LOCAL_URI_SAN", "PEER_CERT_V_END"),
        *("PEER_CERT_V_START", "PEER_DNS_SAN", "PEER_ISSUER", "PEER_SUBJECT", "PEER_URI_SAN", "REMOTE_ADDRESS"),
        *("REMOTE_ADDRESS_WITHOUT_PORT", "REMOTE_PORT", "TLS_CIPHER", "TLS_VERSION"),
    )),
    *("DOWNSTREAM_LOCAL_SUBJECT", "DOWNSTREAM_PEER_FINGERPRINT_256", "DOWNSTREAM_PEER_SERIAL"),
    *("UPSTREAM_CLUSTER", "UPSTREAM_HOST", "UPSTREAM_PROTOCOL", "UPSTREAM_REQUEST_ATTEMPT_COUNT"),
})  # fmt: skip
_NAMED = frozenset({"QUERY_PARAM", "REQ", "RESP", "TRAILER"})
_PART = re.compile(
    r"[^%]+|%%|%(?P<command>[A-Z0-9_]+)(?P<name>\(:?[A-Za-z0-9_-]+(?:\?:?[A-Za-z0-9_-]+)?\)(?::[1-9][0-9]{0,4})?)?%"
)


def check_format(text: str) -> None:
    """Raise InvalidInput for a value that Envoy refuses, or for a command that a route may not use."""
    at = 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise InvalidInput(f"{shown(text)} has a % that starts no command: write %% for a percent sign")
        _check_command(part["command"], named=part["name"] is not None)
        at = part.end()


def _check_command(command: str | None, *, named: bool) -> None:
    known = _NAMED if named else _PLAIN
    if command is None or command in known:
        return
    if command in _NAMED | _PLAIN:
        raise InvalidInput(f"%{command}% {'takes no name' if named else 'needs a name, such as %' + command + '(x)%'}")
    raise InvalidInput(
        f"%{shown(command).strip(chr(39))}% is not a command for routes{did_you_mean(command, _NAMED | _PLAIN)}"
    )
