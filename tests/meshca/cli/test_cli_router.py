import json
import socket
from pathlib import Path

import pytest

from meshca.cli.exits import Exit
from tests.meshca.cli.conftest import Run

SERVICES = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: api}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api]
  http:
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - route: [{destination: {host: api, subset: v1}}]
"""
CALLER = ("--as", "spiffe://mesh.local/ns/default/sa/frontend")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "route.yaml").write_text(ROUTE)
    return tmp_path


def test_check_passes_what_is_good(run: Run, config: Path):
    found = run("router", "check", str(config))
    assert (found.code, found.out, found.err) == (Exit.OK, "", "2 objects, all good\n")
    (config / "route.yaml").unlink()
    assert run("router", "check", str(config)).err == "1 object, all good\n"


def test_check_tells_file_line_and_field_of_all_that_is_wrong(run: Run, config: Path):
    (config / "route.yaml").write_text(ROUTE.replace("subset: v1", "subset: v2"))
    (config / "more.yaml").write_text("kind: [")
    found = run("router", "check", str(config))
    assert found.code == Exit.FAILED
    lines = found.out.splitlines()
    assert lines[0].startswith("more.yaml:")
    assert lines[1].startswith(
        "route.yaml:9: VirtualService default/api: spec.http[1].route[0].destination: no DestinationRule"
    )
    said = json.loads(run("router", "check", str(config), "--output", "json").out)
    assert [each["file"] for each in said["problems"]] == ["more.yaml", "route.yaml"]


@pytest.mark.parametrize(
    "command",
    [("router", "check"), ("router", "run", "--config-dir"), ("up", "--config-dir")],
    ids=lambda command: command[0] + command[1],
)
def test_a_directory_that_is_not_there_or_a_file_ends_the_command_at_once(
    run: Run, config: Path, command: tuple[str, ...]
):
    found = run(*command, str(config / "none"))
    assert (found.code, found.err) == (Exit.NOT_FOUND, f"error: {config}/none: there is no such directory\n")
    found = run(*command, str(config / "route.yaml"))
    assert (found.code, "is a file: name the directory that it is in" in found.err) == (Exit.USAGE, True)


def test_explain_says_where_a_request_goes_and_why(run: Run, config: Path):
    found = run("router", "explain", str(config), "api/x", *CALLER)
    assert found.code == Exit.OK
    assert found.out.startswith("goes to outbound|80|v1|api (100 %)\n")
    assert "spec.http[0] (line 7) does not match" in found.out
    assert "10.0.0.1 as spiffe://mesh.local/ns/default/sa/api" in found.out
    said = json.loads(run("router", "explain", str(config), "api:80/x", *CALLER, "-o", "json", "--header", "a=b").out)
    assert said["parts"][0]["endpoints"] == [
        {"address": "10.0.0.1", "identity": "spiffe://mesh.local/ns/default/sa/api"}
    ]


def test_explain_says_what_is_broken_and_fails_since_its_answer_may_not_hold(run: Run, config: Path):
    (config / "more.yaml").write_text("kind: [")
    found = run("router", "explain", str(config), "api/x", *CALLER)
    assert found.code == Exit.FAILED
    assert found.out.startswith("goes to outbound|80|v1|api (100 %)\n")
    assert found.err.startswith("takes no part: more.yaml:2: ")
    said = run("router", "explain", str(config), "api/x", *CALLER, "-o", "json").json
    assert [each["file"] for each in said["problems"]] == ["more.yaml"]


@pytest.mark.parametrize("header", ["end-user", "=jason", ""])
def test_explain_refuses_a_header_without_name_or_value(run: Run, config: Path, header: str):
    found = run("router", "explain", str(config), "api/x", *CALLER, "--header", header)
    assert (found.code, "is not written NAME=VALUE" in found.err) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ("api/old", Exit.FAILED, "301: redirected by spec.http[0]"),
        ("nobody/", Exit.FAILED, "502: no service is called nobody"),
        ("api:x/", Exit.USAGE, "is not written HOST[:PORT]/PATH"),
        ("/x", Exit.USAGE, "is not written HOST[:PORT]/PATH"),
    ],
)
def test_explain_fails_where_a_request_goes_nowhere(run: Run, config: Path, request_: str, code: Exit, text: str):
    found = run("router", "explain", str(config), request_, *CALLER)
    assert found.code == code
    assert text in found.out + found.err


def test_a_partner_is_told_what_our_mesh_lets_it_do_and_not_what_its_own_would(run: Run, config: Path):
    partner = ("--as", "spiffe://partner.example/x")
    found = run("router", "explain", str(config), "api/", *partner, "--trust-domain", "mesh.local")
    assert found.code == Exit.FAILED
    assert "is not told of api" in found.out


def test_status_says_that_no_router_answers(run: Run, tmp_path: Path):
    found = run("router", "status", "--status-socket", str(tmp_path / "none.sock"))
    assert found.code == Exit.UNREACHABLE
    assert "start `meshca router run`" in found.err


@pytest.mark.parametrize("option", ["--listen", "--http"])
@pytest.mark.parametrize("place", ["15010", "localhost", "127.0.0.1:x", ":1", "127.0.0.1:65536"])
def test_run_refuses_an_address_that_is_none(run: Run, config: Path, option: str, place: str):
    found = run("router", "run", "--config-dir", str(config), option, place)
    assert found.code == Exit.USAGE
    assert f"{option} {place!r} is not written ADDRESS:PORT" in found.err


def test_run_refuses_a_place_for_metrics_that_is_taken_before_it_waits_for_an_identity(run: Run, config: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        found = run("router", "run", "--config-dir", str(config), "--http", place)
    assert found.code == Exit.FAILED
    assert "Give --http something else" in found.err


def test_envoy_bootstrap_points_a_proxy_at_the_router_and_pins_its_identity(run: Run):
    said = run(
        *("envoy", "bootstrap", "--router", "127.0.0.1:15010", "--address", "10.0.0.1", "--app", "80=8080"),
        *("--socket", "/run/x.sock", "-o", "json"),
    )
    document = json.loads(said.out)
    assert document["node"]["metadata"] == {
        "meshca.address": "10.0.0.1",
        "meshca.outbound-port": "15001",
        "meshca.app-port.80": "8080",
    }
    router = next(each for each in document["static_resources"]["clusters"] if each["name"] == "meshca-router")
    assert "spiffe://mesh.local/meshca/router" in json.dumps(router)
    assert run("envoy", "bootstrap", "--router", "nowhere", "--socket", "/run/x.sock").code == Exit.USAGE


def test_envoy_bootstrap_says_how_a_transparent_proxy_takes_what_is_redirected_to_it(run: Run):
    given = ("envoy", "bootstrap", "--router", "127.0.0.1:15010", "--socket", "/run/x.sock", "-o", "json")
    said = json.loads(run(*given, "--transparent", "--ipv4-only", "--pass-unknown", "--inbound-port", "16006").out)
    assert said["node"]["metadata"] == {
        "meshca.outbound-port": "15001",
        "meshca.transparent": "ipv4",
        "meshca.inbound-port": "16006",
        "meshca.unknown": "pass",
    }
    said = json.loads(run(*given, "--transparent").out)
    assert said["node"]["metadata"]["meshca.transparent"] == "dual"
    assert said["node"]["metadata"]["meshca.unknown"] == "refuse"


@pytest.mark.parametrize(
    "options",
    [
        ("--inbound", "1=2", "--allow", "spiffe://mesh.local/a", "--transparent"),
        ("--router", "127.0.0.1:15010", "--pass-unknown"),
        ("--router", "127.0.0.1:15010", "--ipv4-only"),
        ("--router", "127.0.0.1:15010", "--transparent", "--inbound-port", "0"),
    ],
)
def test_what_a_bootstrap_could_only_ignore_is_refused(run: Run, options: tuple[str, ...]):
    assert run("envoy", "bootstrap", "--socket", "/run/x.sock", *options).code == Exit.USAGE
