"""The bootstrap on real Envoys, with secrets from real workload sockets: what it promises is what they do."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from meshca.bootstrap import CLIENT_HEADER, SERVER_HEADER, BootstrapSpec, Inbound, Outbound
from meshca.clock import SystemClock
from meshca.demo.envoys import running_envoy
from sds.listen import serve_workloads
from sds.unix_socket import SocketSpec
from spiffe.id import SpiffeID
from tests.support.grants import ScriptedProvider

pytestmark = pytest.mark.envoy

WEB = SpiffeID.parse("spiffe://example.org/web")
API = SpiffeID.parse("spiffe://example.org/api")
OTHER = SpiffeID.parse("spiffe://example.org/other")


@pytest.fixture
async def spec(tmp_path: Path) -> AsyncIterator[BootstrapSpec]:
    """An Envoy without listeners whose SDS socket serves the SVIDs of web, api and other."""
    provider = ScriptedProvider()
    provider.grant("/web", "/api", "/other")
    path = tmp_path / "workload.sock"
    async with serve_workloads(sockets=[SocketSpec(name="all", path=path)], provider=provider, now=SystemClock().now):
        yield BootstrapSpec(node_id="n", node_cluster="c", sds_socket=str(path), admin_port=0)


@pytest.fixture
async def application() -> AsyncIterator[int]:
    """A local application that answers with what it was told of its caller, and the protocol it was spoken to in."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"xfcc": request.headers.get("x-forwarded-client-cert"), "version": request.version})

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("delta", [False, True])
async def test_two_envoys_speak_mutual_tls_and_each_names_the_other(
    spec: BootstrapSpec, application: int, tmp_path: Path, delta: bool
):
    common = {"port": 0, "address": "127.0.0.1", "peers": (WEB,), "secret": str(API)}
    server = replace(
        spec,
        delta=delta,
        inbound=(
            Inbound(name="application", app_port=application, **common),
            Inbound(name="fixed", response="hello", max_requests_per_connection=1, **common),
        ),
    )
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_envoy("api", server, tmp_path / "api"))
        ports = {name: await api.port(name) for name in ("application", "fixed")}
        to_api = {"port": 0, "host": "127.0.0.1", "secret": str(WEB)}
        outbound = (
            Outbound(name="application", host_port=ports["application"], peer=API, **to_api),
            Outbound(name="fixed", host_port=ports["fixed"], peer=API, max_requests_per_connection=1, **to_api),
            Outbound(name="mistaken", host_port=ports["fixed"], peer=OTHER, **to_api),
            Outbound(name="stranger", host_port=ports["fixed"], peer=API, **{**to_api, "secret": str(OTHER)}),
        )
        client = replace(spec, delta=delta, outbound=outbound)
        caller = await stack.enter_async_context(running_envoy("web", client, tmp_path / "web"))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def get(name: str) -> tuple[int, str, dict[str, str]]:
            async with session.get(f"http://127.0.0.1:{await caller.port(name)}/") as response:
                return response.status, await response.text(), dict(response.headers)

        status, body, headers = await get("application")
        assert (status, headers[SERVER_HEADER]) == (200, str(API))
        assert f"URI={WEB}" in body

        for _ in range(3):
            status, body, headers = await get("fixed")
            assert (status, body, headers[CLIENT_HEADER], headers[SERVER_HEADER]) == (200, "hello", str(WEB), str(API))
        connections = await caller.stats(r"^cluster\.fixed\.upstream_cx_total$")
        assert connections["cluster.fixed.upstream_cx_total"] == 3

        assert (await get("mistaken"))[0] == 503
        assert (await get("stranger"))[0] == 503
        refused = await api.stats(r"ssl\.fail_verify_san$")
        assert sum(refused.values()) == 1
