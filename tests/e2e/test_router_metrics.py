"""What a real router tells Prometheus, after a proxy has connected, accepted and refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.rpc.status_pb2 import Status
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshca.client import connect
from meshca.clock import SystemClock
from meshca.demo.server import register, running_server
from meshca.model import router_names
from meshca.router.app import RouterSettings, Running, running_router
from meshca.router.delivery.target import CLUSTERS
from meshca.router.metrics import registry
from meshca.router.program import ready
from sds.endpoint import Endpoint
from spiffe.id import TrustDomain
from tests.support.crowd import Pems
from tests.support.fleet import service
from tests.support.ramps import ROUTE, SERVICES, annotated
from tests.support.routed import ROUTER, TRUST_DOMAIN
from tests.support.wait import until

STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
NAMES = router_names(TrustDomain(TRUST_DOMAIN))
IDLE = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: idle}
spec: {selector: {matchLabels: {app: nobody}}}
"""


@asynccontextmanager
async def routed(directory: Path) -> AsyncIterator[tuple[Running, Pems]]:
    """A router with three services, a canary, a warning and a problem, and the identity of a proxy."""
    config = directory / "config"
    config.mkdir()
    (config / "services.yaml").write_text(service(0) + service(1))
    (config / "idle.yaml").write_text(IDLE)
    (config / "broken.yaml").write_text("kind: VirtualService")
    (config / "api.yaml").write_text(SERVICES)
    (config / "canary.yaml").write_text(annotated("to=v2 step=5 every=1h max-5xx=1%", ROUTE))
    async with running_server(directory, ["web", "router"]) as server:
        async with connect(server.admin_socket) as client:
            await register(client, str(ROUTER), "socket:router")
            await register(client, f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web", "socket:web")
        settings = RouterSettings(
            directory=config, endpoint=Endpoint.at(server.sockets["router"]), port=0, now=SystemClock().now
        )
        async with running_router(settings) as running:
            yield running, await Pems.fetch(server.sockets["web"])


class Proxy:
    """A stream of clusters."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def say(self, **said: Any) -> None:
        await self.stream.write(pb.DiscoveryRequest(type_url=CLUSTERS, **said).SerializeToString())

    async def take(self, error: str = "") -> int:
        """Accept what comes, or refuse it; returns how many clusters that were."""
        response = await self.stream.read()
        said = {"error_detail": Status(message=error)} if error else {"version_info": response.version_info}
        await self.say(response_nonce=response.nonce, **said)
        return len(response.resources)


def told(running: Running) -> dict[str, float]:
    """Values by name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(generate_latest(registry(running, "1.2.3")).decode())
    return {
        ",".join([each.name.removeprefix("meshca_router_"), *each.labels.values()]): each.value
        for family in families
        for each in family.samples
    }


async def test_metrics_say_how_proxies_configuration_and_canaries_are_and_what_was_refused(tmp_path: Path):
    async with routed(tmp_path) as (running, pems):
        now = SystemClock().now()
        fresh = told(running)
        assert {name: value for name, value in fresh.items() if name.startswith(("proxies", "streams"))} == {
            **{
                f"proxies,{kind},{pace}": 0
                for kind in ("envoy", "grpc")
                for pace in ("settled", "refusing", "moving", "late")
            },
            **{f"streams_refused_total,{reason}": 0 for reason in ("unauthenticated", "distrusted", "too_many")},
        }
        assert (fresh["config_problems"], fresh["config_warnings"], fresh["worlds_published_total"]) == (1, 1, 1)
        assert fresh["config_objects"] == len(running.state.value.good) > 3
        assert abs(fresh["config_read_timestamp_seconds"] - now.timestamp()) < 60
        assert fresh["certificate_expiry_timestamp_seconds"] > now.timestamp()
        assert fresh["meshca_build_info,1.2.3"] == 1
        assert fresh["process_open_fds"] > 0

        options = (("grpc.ssl_target_name_override", NAMES[0]),)
        async with grpc.aio.secure_channel(f"127.0.0.1:{running.port}", pems.credentials(), options=options) as channel:
            proxy = Proxy(channel.stream_stream(STREAM, None, pb.DiscoveryResponse.FromString)(wait_for_ready=True))
            await proxy.say()
            assert await proxy.take(error='"outbound|80||service-1": no such thing') == 4
            assert await proxy.take() == 3
            await until(lambda: told(running)["proxies,envoy,refusing"] == 1)
            seen = told(running)
            assert seen["resources_refused"] == 1
            assert (seen["resources_sent_total,CDS"], seen["resources_sent_total,LDS"]) == (7, 0)
            (tmp_path / "config/services.yaml").write_text(service(0))
            await until(lambda: told(running)["resources_refused"] == 0)
            assert told(running)["proxies,envoy,moving"] == 1
            assert told(running)["worlds_published_total"] > 1
            await until(
                lambda: any(each.phase for each in running.ramping.observed.values())
            )  # it was written and read
            assert told(running)["canaries,running"] == 1
            (tmp_path / "config/canary.yaml").write_text("kind: [")
            await until(lambda: told(running)["canaries,stuck"] == 1)
            await until(lambda: told(running)["proxies,envoy,late"] == 1)  # it asks for no endpoints
        await until(lambda: told(running)["proxies,envoy,late"] == 0)


async def test_a_router_whose_certificate_has_ended_is_not_ready(tmp_path: Path):
    async with routed(tmp_path) as (running, _):
        until_ = running.certificate_until
        assert until_ is not None
        assert ready(running, until_ - timedelta(seconds=1)) == (True, {"certificate_until": until_.isoformat()})
        assert ready(running, until_)[0] is False
