import json
import socket
import tomllib
from pathlib import Path

import pytest
import yaml

from meshca.bootstrap import BootstrapSpec, Inbound, Outbound, envoy_bootstrap
from meshca.cli import COMMANDS, _end, load
from meshca.cli.exits import Exit
from meshca.cli.store import is_served
from spiffe.id import SpiffeID
from tests.meshca.cli.conftest import Run
from tests.support.scripted_server import ScriptedServer

WEB, API = SpiffeID.parse("spiffe://mesh.local/web"), SpiffeID.parse("spiffe://mesh.local/api")


def test_config_show_prints_all_settings_and_what_it_prints_is_good(run: Run, tmp_path: Path):
    file = tmp_path / "meshca.toml"
    shown = run("config", "show", "--data-dir", str(tmp_path))
    file.write_text(shown.out)
    assert tomllib.loads(shown.out)["data_dir"] == str(tmp_path)
    checked = run("config", "check", "--config", str(file))
    assert (checked.code, checked.out, checked.err) == (Exit.OK, "", "the configuration is good\n")


def test_config_check_tells_all_errors_at_once(run: Run, tmp_path: Path):
    file = tmp_path / "meshca.toml"
    file.write_text('trust_domain = "UPPER"\nnonsense = 1\n')
    checked = run("config", "check", "--config", str(file))
    assert checked.code == Exit.USAGE
    assert "UPPER" in checked.err
    assert "nonsense" in checked.err
    assert run("config", "check", "--config", str(tmp_path / "none.toml")).code == Exit.NOT_FOUND


def test_an_empty_path_is_refused_since_nobody_means_the_working_directory(run: Run):
    for option in ("--data-dir", "--admin-socket", "--config"):
        refused = run("up", option, "")
        assert (refused.code, "the path is empty" in refused.err) == (Exit.USAGE, True), option
    assert 'trust_domain = ""' in run("up", "--trust-domain", "").err


def test_a_backup_that_is_not_there_is_not_found(run: Run, tmp_path: Path):
    refused = run("store", "restore", str(tmp_path / "none.db"), "--data-dir", str(tmp_path / "data"))
    assert (refused.code, refused.err) == (Exit.NOT_FOUND, f"error: there is no file {tmp_path}/none.db\n")
    assert not (tmp_path / "data").exists()


def test_envoy_bootstrap_prints_what_the_builder_builds(run: Run):
    spec = BootstrapSpec(
        node_id="web-1",
        node_cluster="meshca",
        sds_socket="/run/x.sock",
        admin_port=0,
        delta=True,
        inbound=(Inbound(port=8443, app_port=8080, peers=(WEB,)),),
        outbound=(Outbound(port=9001, host="::1", host_port=8443, peer=API),),
    )
    options = "--inbound 8443=8080 --allow spiffe://mesh.local/web --outbound 9001=[::1]:8443@spiffe://mesh.local/api"
    rest = "--node-id web-1 --admin-port 0 --delta --socket unix:///run/x.sock"
    printed = run("envoy", "bootstrap", *options.split(), *rest.split())
    assert yaml.safe_load(printed.out) == envoy_bootstrap(spec)
    assert json.loads(run("envoy", "bootstrap", *options.split(), *rest.split(), "-o", "json").out) == envoy_bootstrap(
        spec
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("", "nothing to proxy"),
        ("--inbound 8443=8080", "needs --allow"),
        ("--inbound 8443=web --allow spiffe://mesh.local/web", "'web' is not a port"),
        ("--router 127.0.0.1", "write HOST:PORT, such as"),
        ("--router 127.0.0.1:15010 --app 8443", "'8443': '' is not a port; write PORT=APP_PORT"),
        ("--inbound 8443=8080 --allow spiffe://mesh.local/web --access-log /x", "--access-log is for --router"),
        ("--app 1=2 --outbound-port 3", "--outbound-port and --app are for --router: give that, too, or leave it out"),
        ("--router 127.0.0.1:15010 --inbound-port 15006", "--inbound-port is for --transparent"),
        ("--router 127.0.0.1:15010 --allow spiffe://mesh.local/web", "--allow is for --inbound"),
        ("--router 127.0.0.1:15010 --svid x", "--svid is for --inbound or --outbound"),
        ("--router 127.0.0.1:15010 --address api", "'api' is not an IP address"),
        ("--router 127.0.0.1:15010 --outbound-port 0", "Invalid value for '--outbound-port'"),
        ("--router 127.0.0.1:15010 --app 8443=8080 --app 8443=8081", "port 8443 leads to 8080 already"),
        ("--outbound 9001=api:8443", "names no peer"),
        ("--outbound 9001=api@spiffe://mesh.local/api", "'api' is not a port|no upstream host"),
        ("--outbound 9001=api:8443@spiffe://mesh.local/api --socket tcp://127.0.0.1:1", "not an absolute path"),
    ],
)
def test_a_bootstrap_that_could_not_work_is_refused(run: Run, options: str, reason: str):
    outcome = run("envoy", "bootstrap", *(["--socket", "/s"] if "--socket" not in options else []), *options.split())
    assert outcome.code == Exit.USAGE
    said = " ".join(outcome.err.replace("\u2502", " ").split())
    assert any(each in said for each in reason.split("|")), said


def test_an_address_that_is_an_unset_variable_does_not_stand_for_all_of_them(run: Run):
    for command in (("envoy", "bootstrap"), ("grpc", "bootstrap", "--certs", "/svid")):
        refused = run(*command, "--router", "127.0.0.1:15010", "--address", "")
        assert (refused.code, "'' is not an IP address" in refused.err) == (Exit.USAGE, True)


def test_an_address_is_written_as_the_router_writes_it(run: Run):
    given = ("envoy", "bootstrap", "--router", "127.0.0.1:15010", "--socket", "/s", "-o", "json")
    made = run(*given, "--address", "FD00:0::1").json
    assert made["node"]["metadata"]["meshca.address"] == "fd00::1"


def test_a_restore_sees_a_live_server_even_one_that_lets_nobody_in(admin: ScriptedServer, tmp_path: Path):
    assert is_served(admin.path)
    assert not is_served(str(tmp_path / "none.sock"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert not is_served(str(tmp_path / "dead.sock"))


def test_what_nobody_expected_is_named_a_bug_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(SystemExit) as end:
        _end(ZeroDivisionError("x"))
    assert (end.value.code, len(capsys.readouterr().err.splitlines())) == (Exit.INTERNAL, 1)
    monkeypatch.setenv("MESHCA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        _end(ZeroDivisionError("x"))


def test_the_help_of_the_table_is_that_of_the_command():
    for name, _, text in COMMANDS:
        assert load(name).help.startswith(text.removesuffix(".")), name
