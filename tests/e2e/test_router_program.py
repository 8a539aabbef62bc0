"""`meshca router` as a program: from nothing to a proxy that routes, by the commands that a user types."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshca.client import connect
from meshca.demo.envoys import envoy_binary, running_envoy, stop
from meshca.demo.mesh import free_port
from meshca.demo.server import register, running_server
from tests.support.command import meshca
from tests.support.routed import ROUTER, SERVICES, Replica, application, sidecar
from tests.support.wait import until

pytestmark = pytest.mark.envoy


@asynccontextmanager
async def started(*command: object, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program until the context ends; what it says goes to a file."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*map(str, command), stdout=out, stderr=out)
    try:
        yield process
    finally:
        await stop(process)


async def asked(port: int, host: str, path: str = "/") -> str:
    """The status line and body of one request; empty while nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return ""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return f"{answer.partition(chr(13))[0]} {answer.rpartition(chr(10) + chr(13) + chr(10))[2].strip()}"


async def test_a_proxy_that_is_bootstrapped_by_the_command_line_routes_by_what_the_directory_says(tmp_path: Path):
    router_port, outbound = free_port(), free_port()
    config, status_socket = tmp_path / "config", tmp_path / "status.sock"
    config.mkdir()
    async with running_server(tmp_path, ["router", "api", "web"]) as server, application("hello") as app_port:
        replica = Replica(name="api", version="v1", port=free_port(), app_port=app_port, account="api")
        (config / "services.yaml").write_text(SERVICES.format() + replica.entry)
        async with connect(server.admin_socket) as client:
            await register(client, str(ROUTER), "socket:router")
            for name in ("api", "web"):
                await register(client, f"spiffe://mesh.local/ns/default/sa/{name}", f"socket:{name}")
        run = [sys.executable, "-m", "meshca", "router", "run", "--config-dir", config]
        run += ["--listen", f"127.0.0.1:{router_port}", "--status-socket", status_socket]
        run += ["--socket", server.sockets["router"], "--http", "127.0.0.1:0"]
        async with started(*run, log=tmp_path / "router.log") as router:
            await until(lambda: "ready" in (tmp_path / "router.log").read_text())
            ways = {
                "api": ["--address", "127.0.0.1", "--app", f"{replica.port}={app_port}", "--outbound-port", free_port()]
            }
            ways["web"] = ["--outbound-port", outbound]
            for name, way in ways.items():
                printed = await meshca(
                    *("envoy", "bootstrap", "--router", f"127.0.0.1:{router_port}", "--socket", server.sockets[name]),
                    *("--node-id", name, "--admin-port", free_port(), *way),
                )
                assert printed.code == 0, printed.err
                (tmp_path / f"{name}.yaml").write_text(printed.out)
            envoy = [envoy_binary(), "--disable-hot-restart", "--log-level", "warning", "--concurrency", "1", "-c"]
            async with (
                started(*envoy, tmp_path / "api.yaml", log=tmp_path / "api.log"),
                started(*envoy, tmp_path / "web.yaml", log=tmp_path / "web.log"),
            ):
                await until(lambda: answered(outbound, "api-server", "HTTP/1.1 200 OK hello"))
                assert "502" in await asked(outbound, "nobody")
                said = await status(status_socket)
                assert {each["node"]: each["phase"] for each in said["proxies"]} == {"api": "steady", "web": "steady"}
                assert {each["node"]: each["address"] for each in said["proxies"]} == {"api": "127.0.0.1", "web": None}
                ends = {each["dials_from"] for each in said["proxies"]}
                assert len(ends) == len({int(end.removeprefix("127.0.0.1:")) for end in ends}) == 2
                (config / "broken.yaml").write_text("kind: VirtualService")
                await until(lambda: told(status_socket, "broken.yaml:1"))
                http_port = int(re.findall(r"127\.0\.0\.1:(\d+)/metrics", (tmp_path / "router.log").read_text())[0])
                assert (await asked(http_port, "router", "/ready")).startswith("HTTP/1.1 200 OK")
                metrics = await asked(http_port, "router", "/metrics")
                assert 'meshca_router_proxies{kind="envoy",pace="settled"} 2.0' in metrics
                assert "meshca_router_config_problems 1.0" in metrics
                assert "process_open_fds" in metrics
                assert await answered(outbound, "api-server", "HTTP/1.1 200 OK hello")
                shown = await meshca("router", "status", "--status-socket", status_socket)
                assert "PROBLEM: broken.yaml:1" in shown.out
                assert all(end in shown.out for end in ends)
                assert re.search(r"CDS [0-9a-f]{8} 1/1", shown.out)
                config.rename(tmp_path / "moved")
                await until(lambda: told(status_socket, f"{config}: can not be read"))
                assert await answered(outbound, "api-server", "HTTP/1.1 200 OK hello")
            router.terminate()
            assert await router.wait() == 0
        assert "Traceback" not in (tmp_path / "router.log").read_text()
        assert not status_socket.exists()


async def test_a_router_that_waits_for_an_identity_ends_when_it_is_told_to(tmp_path: Path):
    run = [
        sys.executable,
        "-m",
        "meshca",
        "router",
        "run",
        "--config-dir",
        tmp_path,
        "--socket",
        tmp_path / "none.sock",
    ]
    async with started(*run, log=tmp_path / "router.log") as router:
        await until(lambda: "workload api lost" in (tmp_path / "router.log").read_text())
        router.terminate()
        async with asyncio.timeout(10):
            assert await router.wait() == 0
    assert "Traceback" not in (tmp_path / "router.log").read_text()


async def answered(port: int, host: str, expected: str) -> bool:
    return await asked(port, host) == expected


async def status(socket: Path) -> Any:
    found = await meshca("router", "status", "--status-socket", socket, "--output", "json")
    assert found.code == 0, found.err
    return json.loads(found.out)


async def told(socket: Path, problem: str) -> bool:
    return any(each.startswith(problem) for each in (await status(socket))["problems"])


async def test_up_runs_a_router_too_which_gets_its_identity_as_any_workload_does(tmp_path: Path):
    config, outbound, router_port, http_port = tmp_path / "config", free_port(), free_port(), free_port()
    config.mkdir()
    settings = SETTINGS.replace("{config}", str(config)).replace("{port}", str(router_port))
    settings = settings.replace("{http_port}", str(http_port))
    async with running_server(tmp_path, ["api", "web"], settings=settings) as server, application("hello") as app_port:
        replica = Replica(name="api", version="v1", port=free_port(), app_port=app_port, account="api")
        async with connect(server.admin_socket) as client:
            for name in ("api", "web"):
                await register(client, f"spiffe://mesh.local/ns/default/sa/{name}", f"socket:{name}")
        await until(lambda: "proxies " in server.log())
        api = sidecar(server, "api", router_port, app_ports={replica.port: app_port})
        web = sidecar(server, "web", router_port, app_ports={}, outbound_port=outbound)
        async with (
            running_envoy("api", api, tmp_path / "api"),
            running_envoy("web", web, tmp_path / "web"),
        ):
            assert "502" in await asked(outbound, "api-server")
            (config / "services.yaml").write_text(SERVICES.format() + replica.entry)
            await until(lambda: answered(outbound, "api-server", "HTTP/1.1 200 OK hello"))
            said = await status(tmp_path / "router.sock")
            assert {each["node"] for each in said["proxies"]} == {"api", "web"}
            metrics = await asked(http_port, "up", "/metrics")
            assert re.search(r"^meshca_ready 1", metrics, re.MULTILINE)
            assert 'meshca_router_proxies{kind="envoy",pace="settled"} 2.0' in metrics
        await server.stop()
        assert server.process is not None
        assert server.process.returncode == 0
        assert "Traceback" not in server.log()
        await server.start()
        await until(lambda: server.log().count("proxies ") == 2)


SETTINGS = """\
trust_domain = "mesh.local"
data_dir = "{directory}/data"
admin_socket = "{directory}/admin.sock"

[http]
port = {http_port}

[router]
config_dir = "{config}"
port = {port}
"""
