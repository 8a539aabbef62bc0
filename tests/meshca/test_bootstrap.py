import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from meshca.bootstrap import BootstrapSpec, Inbound, Outbound, RouterLink, Transparent, envoy_bootstrap
from meshca.errors import InvalidInput
from spiffe.id import SpiffeID

ENVOY = next(Path(sys.prefix).glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)
WEB = SpiffeID.parse("spiffe://mesh.local/web")
API = SpiffeID.parse("spiffe://mesh.local/api")
PARTNER = SpiffeID.parse("spiffe://partner.example/api")

FULL = BootstrapSpec(
    node_id="api-1",
    node_cluster="api",
    sds_socket="/run/meshca/api.sock",
    admin_port=0,
    inbound=(
        Inbound(port=8443, app_port=8080, peers=(WEB, API)),
        Inbound(port=8444, response="hello", peers=(WEB,), max_requests_per_connection=3, name="hello"),
    ),
    outbound=(
        Outbound(port=9001, host="127.0.0.1", host_port=8443, peer=API, max_requests_per_connection=1),
        Outbound(port=9002, host="api.example", host_port=8443, peer=PARTNER, validation="spiffe://partner.example"),
    ),
)


@pytest.mark.envoy
@pytest.mark.parametrize("delta", [False, True])
def test_envoy_itself_accepts_the_bootstrap(tmp_path: Path, delta: bool):
    spec = BootstrapSpec(
        node_id="api-1",
        node_cluster="api",
        sds_socket=FULL.sds_socket,
        admin_port=0,
        delta=delta,
        inbound=FULL.inbound,
        outbound=FULL.outbound,
        initial_fetch_timeout=timedelta(seconds=2.5),
    )
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(envoy_bootstrap(spec)))
    command = [str(ENVOY), "--mode", "validate", "-c", str(config), "-l", "warn"]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verdict.returncode == 0, verdict.stderr


def test_each_tls_context_asks_our_socket_for_its_secrets_and_names_its_peers_exactly():
    contexts = {name: context["common_tls_context"] for name, context in _contexts(envoy_bootstrap(FULL))}

    assert {name: _expected(context) for name, context in contexts.items()} == {
        "inbound-8443": [WEB, API],
        "hello": [WEB],
        "outbound-9001": [API],
        "outbound-9002": [PARTNER],
    }
    assert {name: _secrets(context) for name, context in contexts.items()} == {
        "inbound-8443": ("default", "ROOTCA"),
        "hello": ("default", "ROOTCA"),
        "outbound-9001": ("default", "ROOTCA"),
        "outbound-9002": ("default", "spiffe://partner.example"),
    }


def test_listeners_that_need_no_network_are_on_loopback_only():
    document = envoy_bootstrap(FULL)
    addresses = {each["name"]: each["address"]["socket_address"]["address"] for each in _listeners(document)}
    assert addresses["outbound-9001"] == addresses["outbound-9002"] == "127.0.0.1"
    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Inbound(port=1, peers=(), app_port=2), "exactly one trust domain"),
        (lambda: Inbound(port=1, peers=(WEB, PARTNER), app_port=2), "exactly one trust domain"),
        (lambda: Inbound(port=1, peers=(WEB.trust_domain.id,), app_port=2), "has no path"),
        (lambda: Inbound(port=1, peers=(WEB,), app_port=2, validation="ALL"), "ALL pools trust domains"),
        (lambda: Inbound(port=1, peers=(WEB,), app_port=2, validation="spiffe://partner.example"), "can not vouch"),
        (lambda: Inbound(port=1, peers=(WEB,)), "application port or a fixed response"),
        (lambda: Inbound(port=1, peers=(WEB,), app_port=2, response="x"), "application port or a fixed response"),
        (lambda: Inbound(port=65536, peers=(WEB,), app_port=2), "port 65536 is not"),
        (lambda: Inbound(port=1, peers=(WEB,), app_port=0), "port 0 is not"),
        (lambda: Outbound(port=1, host="", host_port=2, peer=WEB), "no upstream host"),
        (lambda: Outbound(port=1, host="x", host_port=-2, peer=WEB), "port -2 is not"),
        (lambda: _spec(node_id=""), "node id"),
        (lambda: _spec(sds_socket="relative.sock"), "'relative.sock' is not an absolute path"),
        (lambda: _spec(sds_socket="/" + "x" * 107), "at most 107 bytes"),
        (
            lambda: _spec(admin_port=8443, inbound=FULL.inbound),
            "8443 is used twice, for the admin port and for inbound-8443",
        ),
        (
            lambda: _spec(admin_port=8080, inbound=FULL.inbound),
            "admin port and for the application behind inbound-8443",
        ),
        (lambda: _routed(outbound_port=9901), "port 9901 is used twice, for the admin port and for the outbound port"),
        (
            lambda: _routed(transparent=Transparent(inbound_port=15001)),
            "for the outbound port and for the inbound port",
        ),
        (lambda: _routed(app_ports={15001: 8080}), "for the outbound port and for the endpoint's port 15001"),
        (lambda: _routed(app_ports={8443: 9901}), "for the admin port and for the application behind port 8443"),
        (
            lambda: _routed(app_ports={8443: 8080, 8080: 80}),
            "the endpoint's port 8080 and for the application behind port 8443",
        ),
        (lambda: _routed(app_ports={8443: 8443}), "the endpoint's port 8443 and for the application behind port 8443"),
        (
            lambda: _routed(address="10.0.0.1", transparent=Transparent(), app_ports={15006: 8080}),
            "for the inbound port and for the endpoint's port 15006",
        ),
        (lambda: _routed(outbound_port=15010), "for the outbound port and for the routing server"),
        (lambda: _spec(inbound=(FULL.inbound[1], _hello(8445))), "listener name hello is used twice"),
    ],
)
def test_what_envoy_would_refuse_or_get_wrong_is_refused_with_the_value(build: Any, reason: str):
    with pytest.raises(InvalidInput, match=reason):
        build()


@pytest.mark.parametrize(
    "changes",
    [
        {"app_ports": {8443: 8080, 8444: 8080}},
        {"app_ports": {8443: 8443}, "transparent": Transparent()},
        {"app_ports": {8443: 8443, 15001: 8080, 9901: 80}, "address": "10.0.0.1"},
        {"outbound_port": 15010, "host": "10.0.0.9"},
    ],
    ids=["one application", "not listened on", "on another address", "on another host"],
)
def test_ports_that_do_not_get_in_each_others_way_may_be_alike(changes: dict[str, Any]):
    assert envoy_bootstrap(_routed(**changes))


def _routed(**changes: Any) -> BootstrapSpec:
    link = {"host": "127.0.0.1", "port": 15010, "identity": SpiffeID.parse("spiffe://mesh.local/meshca/router")}
    return _spec(router=RouterLink(**{**link, **changes}))


def _hello(port: int) -> Inbound:
    return Inbound(port=port, response="x", peers=(WEB,), name="hello")


def _spec(**changes: Any) -> BootstrapSpec:
    return BootstrapSpec(**{"node_id": "n", "node_cluster": "c", "sds_socket": "/s", **changes})


def _listeners(document: dict[str, Any]) -> list[dict[str, Any]]:
    return document["static_resources"]["listeners"]


def _contexts(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    holders = [(each["name"], each["filter_chains"][0]) for each in _listeners(document)]
    holders += [(each["name"], each) for each in document["static_resources"]["clusters"]]
    return [(name, h["transport_socket"]["typed_config"]) for name, h in holders if "transport_socket" in h]


def _expected(context: dict[str, Any]) -> list[SpiffeID]:
    names = context["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
    assert all(name["san_type"] == "URI" for name in names)
    return [SpiffeID.parse(name["matcher"]["exact"]) for name in names]


def _secrets(context: dict[str, Any]) -> tuple[str, str]:
    (svid,) = context["tls_certificate_sds_secret_configs"]
    bundle = context["combined_validation_context"]["validation_context_sds_secret_config"]
    assert svid["sds_config"] == bundle["sds_config"]
    return svid["name"], bundle["name"]
