"""The image and the example for Kubernetes, as far as they can be tried without a cluster: judged by its schemas, built, and run."""

import asyncio
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.netns import namespace, unavailable
from tests.support.pod import DEPLOY, EXAMPLE, Pod, containers, image, objects, pod
from tests.support.wait import until

REASON = unavailable()
OLDEST, NEWEST = "1.29", "1.37"
"""The first that starts containers in this order by itself, and the last whose schemas there are."""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_each_object_is_one_that_kubernetes_takes(version: str):
    for each in objects():
        kubernetes_validate.validate(each, version, strict=True)
    broken = {**objects()[0], "dat": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_no_container_has_a_right_that_it_does_not_need():
    spec = pod()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    users = [each["securityContext"].pop("runAsUser") for each in containers().values()]
    assert len(set(users)) == len(users)
    assert 0 not in users
    closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for each in containers().values():
        assert closed.items() <= each["securityContext"].items(), each["name"]
        assert each["resources"]["limits"]["memory"]


def test_only_envoy_has_the_socket_and_only_meshca_its_keys():
    mounts = {name: {mount["name"]: mount for mount in each["volumeMounts"]} for name, each in containers().items()}
    assert {name for name in mounts if "spiffe" in mounts[name]} == {"meshca", "envoy"}
    assert mounts["envoy"]["spiffe"]["readOnly"] is True
    assert [name for name in mounts if mounts[name].keys() & {"data", "admin", "meshca"}] == ["meshca"]
    assert {mount for each in mounts.values() for mount in each} == {each["name"] for each in pod()["volumes"]}


def test_the_bootstrap_is_what_the_command_prints():
    options = ["--inbound", "8443=8080", "--allow", "spiffe://mesh.local/app", "--node-id", "app"]
    outbound = ["--outbound", "9001=127.0.0.1:8443@spiffe://mesh.local/app", "--socket", "/run/spiffe/envoy.sock"]
    command = [sys.executable, "-m", "meshca", "envoy", "bootstrap", *options, *outbound]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (EXAMPLE / "envoy.yaml").read_text() == printed, " ".join(command)


@pytest.mark.skipif(shutil.which("kustomize") is None, reason="not installed: kustomize")
def test_kustomize_builds_what_the_files_say():
    built = subprocess.run(["kustomize", "build", EXAMPLE], capture_output=True, text=True, check=True).stdout
    found = [each["kind"] for each in yaml.safe_load_all(built)]
    assert sorted(found) == sorted(each["kind"] for each in objects())


def test_the_image_is_of_a_base_that_can_be_chosen_and_runs_as_nobody_special():
    steps = [(each["instruction"], each["value"]) for each in image().structure if each["instruction"] != "COMMENT"]
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE=")
    assert [value for name, value in steps if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert [value for name, value in steps if name == "USER"] == ["10001:10001"]
    assert containers()["meshca"]["securityContext"]["runAsUser"] == 10001
    assert steps[-2:] == [("ENTRYPOINT", '["/opt/meshca/bin/meshca"]'), ("CMD", '["up"]')]


def test_the_steps_of_the_image_install_a_meshca_that_runs(tmp_path: Path):
    """The dependencies are lent, not downloaded; else the commands are those of the Dockerfile."""
    root, build = tmp_path / "opt/meshca", tmp_path / "build"
    build.mkdir()
    shutil.copy(DEPLOY.parent / "constraints.txt", build)
    wheel = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(build), str(DEPLOY.parent)]
    subprocess.run(wheel, check=True, capture_output=True)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for step in [each["value"] for each in image().structure if each["instruction"] == "RUN"]:
        here = step.replace("/opt/meshca", str(root)).replace("/build/", f"{build}/")
        subprocess.run(["sh", "-ec", here], check=True, env=offline, capture_output=True)
    (packages,) = root.glob("lib/python3.*/site-packages")
    (packages / "lent.pth").write_text(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n")
    said = subprocess.run([root / "bin/meshca", "--version"], check=True, env={}, capture_output=True, text=True)
    assert said.stdout.startswith("meshca ")
    assert not list(root.glob("bin/pip*"))


@pytest.mark.envoy
@pytest.mark.skipif(bool(REASON), reason=REASON)
async def test_the_example_runs_and_its_application_calls_itself_through_mutual_tls(tmp_path: Path):
    made = Pod(where=namespace(), root=tmp_path / "root")
    made.lay_out()

    async def asked(port: int, path: str = "/") -> str:
        try:
            async with asyncio.timeout(20), made.where.dialled("127.0.0.1", port) as (reader, writer):
                writer.write(f"GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n".encode())
                return (await reader.read()).decode()
        except ConnectionError:
            return ""

    async def is_ready(path: str) -> bool:
        return " 200 " in await asked(9180, path)

    async with made.running("meshca"):
        start = containers()["meshca"]["lifecycle"]["postStart"]["exec"]["command"]
        code, said = await made.run("meshca", *start)
        assert code == 0, said
        for probe in ("startupProbe", "livenessProbe"):
            assert await is_ready(containers()["meshca"][probe]["httpGet"]["path"])
        async with made.running("envoy"), made.running("app"):
            answer = await until(lambda: said_hello(asked))
            assert "x-server-spiffe-id: spiffe://mesh.local/app" in answer
            # Whoever is another user gets nothing, even if it came to the socket.
            code, said = await made.run(
                "app", "/opt/meshca/bin/meshca", "svid", "fetch", "--socket", "/run/spiffe/envoy.sock"
            )
            assert code != 0
            assert "no registration entry covers this process" in said


async def said_hello(asked: Callable[[int], Awaitable[str]]) -> str:
    """The answer once it is the application's; before, Envoy or the application may not be there yet."""
    answer = await asked(9001)
    return answer if answer.endswith("hello from the application\n") else ""
