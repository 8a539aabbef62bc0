import json
from pathlib import Path

import pytest

from meshca.cli.exits import Exit
from tests.meshca.cli.conftest import Run


def test_a_bootstrap_names_the_router_by_its_certificate_and_files_by_their_whole_path(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    made_by_fetch(tmp_path / "svid")
    found = run("grpc", "bootstrap", "--certs", "svid", "--address", "10.0.0.1", "--node-id", "api-1")
    assert (found.code, found.err) == (Exit.OK, "")
    made = json.loads(found.out)
    (router,) = made["xds_servers"]
    assert router["server_uri"] == "dns:///router.mesh.local.meshca.localhost:15010"
    (credentials,) = router["channel_creds"]
    provider = made["certificate_providers"]["meshca"]
    assert credentials == {"type": "tls", "config": provider["config"]}
    assert provider["config"] == {
        "certificate_file": str(tmp_path / "svid" / "svid.0.pem"),
        "private_key_file": str(tmp_path / "svid" / "svid.0.key"),
        "ca_certificate_file": str(tmp_path / "svid" / "bundle.0.pem"),
        "refresh_interval": "1s",
    }
    assert made["node"] == {"id": "api-1", "metadata": {"meshca.address": "10.0.0.1"}}
    assert made["server_listener_resource_name_template"] == "meshca/grpc-server/%s"


def made_by_fetch(directory: Path) -> None:
    directory.mkdir()
    for name in ("svid.0.pem", "svid.0.key", "bundle.0.pem"):
        (directory / name).touch()


def test_files_that_are_not_there_yet_are_told_with_the_command_that_makes_them(run: Run, tmp_path: Path):
    found = run("grpc", "bootstrap", "--certs", str(tmp_path / "none"))
    assert found.code == Exit.OK
    assert found.err == (
        f"{tmp_path}/none has no svid.0.pem, svid.0.key, bundle.0.pem yet: "
        f"`meshca svid fetch --watch --write {tmp_path}/none` makes them and keeps them fresh\n"
    )
    made_by_fetch(tmp_path / "some")
    (tmp_path / "some" / "svid.0.key").unlink()
    assert "has no svid.0.key yet" in run("grpc", "bootstrap", "--certs", str(tmp_path / "some")).err


@pytest.mark.parametrize(
    ("router", "uri", "told"),
    [
        ("[::1]:1", "dns:///router.mesh.local.meshca.localhost:1", False),
        ("localhost:1", "dns:///router.mesh.local.meshca.localhost:1", False),
        ("10.0.0.9:1", "dns:///router.mesh.local.meshca.internal:1", True),
        ("router.mesh.local.meshca.internal:1", "dns:///router.mesh.local.meshca.internal:1", False),
    ],
)
def test_a_router_elsewhere_needs_its_name_to_lead_to_it_and_that_is_said(run: Run, router: str, uri: str, told: bool):
    found = run("grpc", "bootstrap", "--certs", "/svid", "--router", router)
    assert json.loads(found.out)["xds_servers"][0]["server_uri"] == uri
    assert ("let /etc/hosts or DNS lead that to 10.0.0.9" in found.err) is told


@pytest.mark.parametrize("router", ["15010", "host:", "host:x"])
def test_a_router_that_is_no_place_is_refused(run: Run, router: str):
    found = run("grpc", "bootstrap", "--certs", "/svid", "--router", router)
    assert (found.code, router in found.err) == (Exit.USAGE, True)
