"""One real Envoy that judges requests by RBAC filters: each case is a filter chain of one listener, picked by the server name.

The listener trusts several trust domains, each by its own CA. It believes the PROXY protocol, so that a case may pretend any port.
"""

import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from meshca.demo.envoys import envoy_binary
from tests.support.pki import CA, Issued

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions"
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Judge:
    """A running Envoy. Made by `running_judge`."""

    directory: Path
    admin: str
    port: int
    _contexts: dict[int, ssl.SSLContext] = field(default_factory=dict)

    def http(self, case: str, peer: Issued | None, request: str = "GET api /", port: int = 80) -> int:
        """The status of a request written `METHOD HOST PATH`. Without a peer it goes in plaintext, to the one case that takes it."""
        method, host, path = request.split(" ")
        answer = self._say(case, peer, f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n", port)
        return int(answer.split()[1])

    def tcp(self, case: str, peer: Issued, port: int = 80) -> bool:
        """Whether what the peer says comes back."""
        return self._say(case, peer, "hello", port) == "hello"

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters whose name matches."""
        page = json.loads(_get(f"{self.admin}/stats?format=json&usedonly&filter={pattern}"))
        return {stat["name"]: stat["value"] for stat in page["stats"] if "value" in stat}

    def _say(self, case: str, peer: Issued | None, text: str, port: int) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=_SECONDS) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each question waits 40 ms for an ACK
            plain.sendall(f"PROXY TCP4 127.0.0.1 127.0.0.1 40000 {port}\r\n".encode())
            if peer is None:
                plain.sendall(text.encode())
                return plain.recv(4096).decode()
            with self._context(peer).wrap_socket(plain, server_hostname=case) as secure:
                secure.sendall(text.encode())
                return secure.recv(4096).decode()

    def _context(self, peer: Issued) -> ssl.SSLContext:
        serial = peer.certificate.serial_number
        if serial not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            both = self.directory / "peer.pem"
            both.write_bytes(peer.key_pem + peer.chain_pem)
            context.load_cert_chain(both)
            self._contexts[serial] = context
        return self._contexts[serial]


@contextmanager
def running_judge(
    directory: Path,
    cas: Sequence[CA],
    *,
    http: Mapping[str, Sequence[Message]],
    rules: Mapping[str, Mapping[str, Message]],
    tcp: Mapping[str, Sequence[Message]],
    plaintext: Sequence[Message],
) -> Iterator[Judge]:
    """Run Envoy with these filters for each server name, until the context ends; `rules` are what the route says to those of a case.

    The first CA signs its own certificate.
    """
    tls = _tls(cas)
    chains = [
        *(
            {**_named(case), **tls, "filters": [_http(case, filters, rules.get(case, {}))]}
            for case, filters in http.items()
        ),
        *({**_named(case), **tls, "filters": [*_dicts(filters), _echo()]} for case, filters in tcp.items()),
        {
            "filter_chain_match": {"transport_protocol": "raw_buffer"},
            "filters": [_http("plaintext", plaintext, rules["plaintext"])],
        },
    ]
    (directory / "bootstrap.json").write_text(json.dumps(_bootstrap(chains)))
    arguments = ["--config-path", "bootstrap.json", "--admin-address-path", "admin", "--concurrency", "1"]
    quiet = ["--disable-hot-restart", "--log-level", "error", "--log-path", "envoy.log"]
    process = subprocess.Popen([envoy_binary(), *arguments, *quiet], cwd=directory)
    try:
        admin = _until_live(process, directory)
        status = json.loads(_get(f"{admin}/listeners?format=json"))["listener_statuses"][0]
        yield Judge(directory, admin, status["local_address"]["socket_address"]["port_value"])
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _until_live(process: subprocess.Popen[bytes], directory: Path) -> str:
    written = directory / "admin"
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if written.exists() and (address := written.read_text().strip()):
            admin = f"http://{address}"
            if _get(f"{admin}/ready").startswith("LIVE"):
                return admin
        time.sleep(0.02)
    raise AssertionError((directory / "envoy.log").read_text())


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            return str(response.read().decode())
    except OSError as error:  # also a status such as 503
        return str(error)


def _bootstrap(chains: list[Json]) -> Json:
    listener = {
        "name": "judge",
        "address": _anywhere(),
        "listener_filters": [
            _typed("filters.listener.proxy_protocol.v3.ProxyProtocol"),
            _typed("filters.listener.tls_inspector.v3.TlsInspector"),
        ],
        "filter_chains": chains,
    }
    return {"admin": {"address": _anywhere()}, "static_resources": {"listeners": [listener]}}


def _named(case: str) -> Json:
    return {"filter_chain_match": {"server_names": [case]}}


def _http(case: str, filters: Sequence[Message], rules: Mapping[str, Message]) -> Json:
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    return _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=case,
        route_config={
            "virtual_hosts": [{"name": case, "domains": ["*"], "routes": [route]}],
            "typed_per_filter_config": {name: _dict(each) for name, each in rules.items()},
        },
        http_filters=[*_dicts(filters), _typed("filters.http.router.v3.Router")],
    )


def _echo() -> Json:
    return _typed("filters.network.echo.v3.Echo")


def _tls(cas: Sequence[CA]) -> Json:
    own = cas[0].leaf(uris=[f"spiffe://{cas[0].trust_domain}/judge"])
    domains = [{"name": ca.trust_domain, "trust_bundle": {"inline_string": ca.pem.decode()}} for ca in cas]
    validator = _typed("transport_sockets.tls.v3.SPIFFECertValidatorConfig", trust_domains=domains)
    certificate = {
        "certificate_chain": {"inline_string": own.chain_pem.decode()},
        "private_key": {"inline_string": own.key_pem.decode()},
    }
    context = {
        "tls_certificates": [certificate],
        "validation_context": {"custom_validator_config": {**validator, "name": "envoy.tls.cert_validator.spiffe"}},
    }
    return {
        "transport_socket": _typed(
            "transport_sockets.tls.v3.DownstreamTlsContext",
            require_client_certificate=True,
            common_tls_context=context,
        )
    }


def _typed(kind: str, **config: Any) -> Json:
    return {"name": kind, "typed_config": {"@type": f"{_TYPE}.{kind}", **config}}


def _dicts(filters: Sequence[Message]) -> list[Json]:
    return [_dict(each) for each in filters]


def _dict(message: Message) -> Json:
    made: Json = MessageToDict(message, preserving_proto_field_name=True)
    return made


def _anywhere() -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
