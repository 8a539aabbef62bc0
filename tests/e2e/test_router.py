"""The routing server with real Envoys: what was asked for is what happens, and no change of it costs a request."""

import asyncio
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from meshca.client import connect
from meshca.demo.envoys import stop
from meshca.proto.admin_pb2 import KindRequest
from sds.endpoint import Endpoint
from sds.workload_client import WorkloadClient
from tests.support.routed import Answers, Replica, RoutedMesh, forwarder, routed_mesh
from tests.support.tls_peer import ask
from tests.support.wait import until

pytestmark = pytest.mark.envoy

CANARY = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: api-server
spec:
  hosts:
  - api-server
  http:
  - route:
    - destination:
        host: api-server
        subset: v1
      weight: 95
    - destination:
        host: api-server
        subset: v2
      weight: 5
"""
HALVES = CANARY.replace("95", "50").replace("weight: 5\n", "weight: 50\n")
REQUESTS = 20_000
FEW_FLIPS = 50
FLIPS = int(os.environ.get("MESHCA_TEST_FLIPS", "1000"))
BOTH = {"api-v1": "v1", "api-v2": "v2"}


def only(version: str) -> str:
    """Everything to one subset."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api-server}}
spec:
  hosts: [api-server]
  http:
  - route:
    - destination: {{host: api-server, subset: {version}}}
"""


def sigmas(seen: int, total: int, share: float) -> float:
    """How many standard deviations a count is away from the share that was asked for."""
    return (seen - total * share) / math.sqrt(total * share * (1 - share))


async def reasons(mesh: RoutedMesh) -> dict[str, int]:
    """What the frontend's Envoy says that went wrong with requests of its own making."""
    return await mesh.envoys["frontend"].stats(r"(no_cluster|no_route|upstream_cx_none_healthy)$")


async def test_the_canary_splits_as_asked_and_is_changed_under_load_without_a_failed_request(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", CANARY)) as mesh:
        first = await mesh.ask(REQUESTS)
        off = sigmas(first.good["v2"], REQUESTS, 0.05)
        print(f"95/5: {dict(first.good)}, {off:+.2f} sigma")
        assert first.bad == {}
        assert abs(off) < 4
        async with mesh.under_load() as under:
            mesh.write("canary.yaml", HALVES)
            await mesh.settled()
        assert under.bad == {}
        second = await mesh.ask(REQUESTS // 4)
        assert second.bad == {}
        assert abs(sigmas(second.good["v2"], second.total, 0.5)) < 4


@pytest.mark.slow
async def test_a_thousand_flips_between_subsets_under_load_fail_no_request(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("route.yaml", only("v1"))) as mesh:
        async with mesh.under_load() as under:
            for flip in range(FLIPS):
                mesh.write("route.yaml", only("v2" if flip % 2 == 0 else "v1"))
                await mesh.settled()
        print(f"{FLIPS} flips, {under.total} requests: {dict(under.good)}")
        assert under.bad == {}
        assert min(under.good["v1"], under.good["v2"]) > 0
        assert await reasons(mesh) == {}


async def test_an_envoy_that_is_sent_the_state_of_the_world_loses_no_request_either(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("route.yaml", only("v1")), incremental=False) as mesh:
        async with mesh.under_load() as under:
            for flip in range(FEW_FLIPS):
                mesh.write("route.yaml", only("v2" if flip % 2 == 0 else "v1"))
                await mesh.settled()
        assert under.bad == {}
        assert min(under.good["v1"], under.good["v2"]) > 0
        assert await reasons(mesh) == {}
        assert (await mesh.envoys["frontend"].stats(r"cluster_manager\.cds\.update_rejected")) == {}


FAULTS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: api-server
spec:
  hosts: [api-server]
  http:
  - match:
    - uri: {prefix: /abort}
    fault:
      abort: {httpStatus: 418, percentage: {value: 12.5}}
    route:
    - destination: {host: api-server}
  - match:
    - uri: {prefix: /delay}
    fault:
      delay: {fixedDelay: 20ms, percentage: {value: 50}}
    route:
    - destination: {host: api-server}
  - route:
    - destination: {host: api-server}
"""


async def test_faults_hit_the_share_that_was_asked_for_and_only_what_matches(tmp_path: Path):
    async with routed_mesh(tmp_path, {"api-v1": "v1"}, ("faults.yaml", FAULTS)) as mesh:
        aborted = await mesh.ask(4000, path="/abort")
        off = sigmas(aborted.bad.total(), 4000, 0.125)
        print(f"abort 12.5 %: {aborted.bad.total()} of 4000, {off:+.2f} sigma")
        assert {reason[:3] for reason in aborted.bad} == {"418"}
        assert abs(off) < 4
        await mesh.ask(800, path="/delay")
        delayed = (await mesh.envoys["frontend"].stats(r"outbound\.fault\.delays_injected$")).popitem()[1]
        off = sigmas(delayed, 800, 0.5)
        print(f"delay 50 %: {delayed} of 800, {off:+.2f} sigma")
        assert abs(off) < 4
        assert (await mesh.ask(200)).bad == {}


POLICIES = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: api-server}}
  rules:
  - from:
    - source: {principals: [mesh.local/ns/default/sa/frontend]}
    to:
    - operation: {methods: [GET], paths: [/public*]}
"""


async def test_who_may_do_what_is_decided_by_identity_method_and_path(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("policies.yaml", POLICIES)) as mesh:
        assert (await mesh.ask(50, path="/public/x")).bad == {}
        for asked in ({"path": "/private"}, {"path": "/public/x", "method": "POST"}, {"path": "/public/../private"}):
            refused = await mesh.ask(20, **asked)
            assert refused.good == {}
            assert {reason[:3] for reason in refused.bad} == {"403"}
        # Nobody else is told that the service is there, and who dials it all the same is refused by its sidecar.
        strangers = await mesh.ask(20, caller="api-v1", path="/public/x")
        assert {reason[:3] for reason in strangers.bad} == {"502"}
        mesh.write("policies.yaml", "")
        await mesh.settled()
        assert (await mesh.ask(20, caller="api-v1", path="/private")).bad == {}


DISGUISED = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hidden}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/private*]}}, {operation: {hosts: [secret.example]}}]
"""
PATHS = ("/private", "/a/../private", "//private", "/%70rivate", "/private?a", "/.\\private", "http://api/private")
ESCAPED_PATHS = ("/%2fprivate", "/a%2f..%2fprivate", "/a%5c..%5cprivate")
HOSTS = ("secret.example", "SECRET.example:80", "secret.example.", "secret.example:", "secret.example.:80")


async def test_what_the_application_would_take_for_the_same_is_judged_as_the_same(tmp_path: Path):
    async with routed_mesh(tmp_path, {"api-v1": "v1"}, ("policies.yaml", DISGUISED)) as mesh:
        replica = mesh.replicas["api-v1"]
        context = await WorkloadClient(Endpoint.at(mesh.server.sockets["frontend"])).fetch_x509()
        svid = context.identities[0].svid

        async def status(target: str, host: str = "api") -> str:
            request = f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
            return (await ask(replica.port, svid.chain_pem(), svid.key_pem(), request)).split(" ")[1]

        assert await status("/") == "200"
        assert {path: await status(path) for path in PATHS} == dict.fromkeys(PATHS, "403")
        assert {path: await status(path) for path in ESCAPED_PATHS} == dict.fromkeys(ESCAPED_PATHS, "307")
        assert {host: await status("/", host) for host in HOSTS} == dict.fromkeys(HOSTS, "403")
        assert replica.behaviour.calls == 1


NO_READERS = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-readers}
spec:
  action: DENY
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""


def labelled(replica: Replica, version: str) -> str:
    """The same place once more, with another label."""
    return replace(replica, name=f"{replica.name}-{version}", version=version).entry


async def test_a_policy_holds_from_the_next_request_on_and_ends_no_connection_that_is_open(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH) as mesh:
        for _ in range(5):
            assert (await mesh.ask(50)).bad == {}
            mesh.write("policies.yaml", NO_READERS)
            await mesh.settled()
            refused = await mesh.ask(50)
            assert refused.good == {}
            assert {reason[:3] for reason in refused.bad} == {"403"}
            mesh.write("policies.yaml", "")
            await mesh.settled()
        # So it does where a proxy comes to stand for places with other labels, too.
        mesh.write("other.yaml", "".join(labelled(each, "v3") for each in mesh.replicas.values()))
        mesh.write("policies.yaml", NO_READERS)
        await mesh.settled()
        assert (await mesh.ask(50)).good == {}
        ended = await mesh.envoys["frontend"].stats(r"^cluster\.outbound.*upstream_cx_destroy$")
        assert sum(ended.values()) == 0, ended


async def test_an_endpoint_with_another_services_identity_is_refused_also_behind_the_same_name(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH) as mesh:
        one, other = mesh.replicas.values()
        assert set((await mesh.ask(100)).good) == {"v1", "v2"}
        async with forwarder(one.port) as elsewhere:  # v2's endpoint leads to v1, whose SVID is valid, but another
            services = (mesh.config / "services.yaml").read_text()
            mesh.write("services.yaml", services.replace(str(other.port), str(elsewhere)))
            mesh.write("route.yaml", only("v2"))
            await mesh.settled()
            forged = await mesh.ask(20)
        assert forged.good == {}
        assert {reason[:3] for reason in forged.bad} == {"503"}
        failed = await mesh.envoys["frontend"].stats(r"fail_verify_san$")
        assert sum(failed.values()) > 0, await mesh.envoys["frontend"].get("/stats?filter=ssl")


async def test_router_and_ca_may_die_and_traffic_goes_on(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", HALVES)) as mesh:
        async with mesh.under_load() as under:
            await mesh.stop_router()
            await mesh.server.kill()
            await mesh.more(under, 500)
            assert (await mesh.ask(100)).bad == {}
            await mesh.server.start()
            await mesh.start_router()
            mesh.write("canary.yaml", only("v2"))
            await mesh.settled()
        assert under.bad == {}
        assert set((await mesh.ask(100)).good) == {"v2"}


async def test_streams_below_a_root_that_goes_end_and_their_proxies_come_back_without_a_failed_request(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", HALVES)) as mesh:
        clients = mesh.running.router.clients
        before = {each.peer.serial for each in clients.values()}
        async with mesh.under_load() as under:
            async with connect(mesh.server.admin_socket) as client:
                steps = [each.step async for each in client.authorities.Rotate(KindRequest(kind="root"))]
            assert steps[-1] == "done"
            await until(lambda: len(clients) == 3 and before.isdisjoint(each.peer.serial for each in clients.values()))
            mesh.write("canary.yaml", only("v2"))
            await mesh.settled()
        assert under.bad == {}
        assert await reasons(mesh) == {}
        assert mesh.running.refused == {"distrusted": 6}  # of each the configuration and the load reports


async def test_one_bad_object_harms_no_other_and_is_told_by_file_and_field(tmp_path: Path):
    broken = CANARY.replace("name: api-server", "name: broken", 1).replace("subset: v2", "subset: v9")
    async with routed_mesh(tmp_path, BOTH, ("canary.yaml", HALVES), ("broken.yaml", broken)) as mesh:
        assert set((await mesh.ask(100)).good) == {"v1", "v2"}
        (problem,) = {each for each in map(str, mesh.running.state.value.problems) if "v9" in each}
        assert problem.startswith("broken.yaml:")
        assert "VirtualService default/broken: spec.http[0].route[1]" in problem


BREAKER = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api-server}
spec:
  host: api-server
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 1}
      http: {http1MaxPendingRequests: 1}
"""


async def test_what_is_too_much_for_a_circuit_breaker_is_answered_at_once(tmp_path: Path):
    async with routed_mesh(tmp_path, {"api-v1": "v1"}, ("breaker.yaml", BREAKER)) as mesh:
        behaviour = mesh.replicas["api-v1"].behaviour
        behaviour.released.clear()
        answers = Answers()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mesh.ask(1, answers, lanes=1))
            await until(lambda: behaviour.calls == 1)
            tasks.create_task(mesh.ask(9, answers, lanes=9))  # one of them may wait
            await until(lambda: answers.bad.total() == 8)  # while the application is still busy with the first
            behaviour.released.set()
        assert dict(answers.good) == {"v1": 2}
        assert all("overflow" in reason for reason in answers.bad)
        overflow = await mesh.envoys["frontend"].stats(r"outbound\|80\|\|api-server\.upstream_rq_pending_overflow$")
        assert sum(overflow.values()) == 8


OUTLIERS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api-server}
spec:
  host: api-server
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 2, interval: 100ms, baseEjectionTime: 300ms, maxEjectionPercent: 50}
"""


async def test_an_endpoint_that_fails_again_and_again_is_left_out_and_comes_back(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("outliers.yaml", OUTLIERS)) as mesh:
        ill = mesh.replicas["api-v2"].behaviour
        ill.status = 500

        async def ejected() -> bool:
            await mesh.ask(8)
            stats = await mesh.envoys["frontend"].stats(r"outlier_detection\.ejections_active$")
            return sum(stats.values()) == 1

        await until(ejected)
        assert (await mesh.ask(30)).bad == {}
        ill.status = 200

        async def back() -> bool:
            return (await mesh.ask(20)).good["v2"] > 0

        await until(back)


RETRIES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api-server}
spec:
  hosts: [api-server]
  http:
  - match: [{uri: {prefix: /thrice}}]
    retries: {attempts: 2, retryOn: "503", backoff: 1ms}
    route: [{destination: {host: api-server}}]
  - match: [{uri: {prefix: /never}}]
    retries: {attempts: 0}
    route: [{destination: {host: api-server}}]
  - route: [{destination: {host: api-server}}]
"""


async def test_what_can_not_have_done_anything_is_tried_again_and_nothing_else_unless_asked_for(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH, ("retries.yaml", RETRIES)) as mesh:
        ill = [each.behaviour for each in mesh.replicas.values()]
        for path, calls in (("/", 10), ("/never", 10), ("/thrice", 30)):
            for each in ill:
                each.status, each.calls = 503, 0
            refused = await mesh.ask(10, lanes=1, path=path)
            assert refused.bad.total() == 10
            assert sum(each.calls for each in ill) == calls, path
        for each in ill:
            each.status = 200
        await stop(mesh.envoys["api-v2"].process)
        assert (await mesh.ask(50, lanes=2)).bad == {}  # a connection that fails has done nothing yet
        assert (await mesh.ask(50, lanes=2, path="/never")).bad != {}


async def test_no_more_is_tried_again_at_once_than_the_budget_allows(tmp_path: Path):
    count = 40
    async with routed_mesh(tmp_path, {"api-v1": "v1"}, ("retries.yaml", RETRIES)) as mesh:
        ill, answers = mesh.replicas["api-v1"].behaviour, Answers()
        ill.status = 503
        ill.released.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mesh.ask(count, answers, lanes=count, path="/thrice"))
            await until(lambda: ill.calls == count)
            ill.released.set()
            ill.released.clear()  # those that are there are answered, and what comes now is held
            await until(lambda: answers.total + (again := ill.calls - count) == count and again)
            print(f"{count} requests failed at once, {ill.calls - count} of them were tried again")
            assert 3 <= ill.calls - count <= count * 0.2  # the retry budget: 20 % of what is under way, and at least 3
            ill.released.set()
        stats = await mesh.envoys["frontend"].stats(r"outbound\|80\|\|api-server\.upstream_rq_retry_overflow$")
        assert sum(stats.values()) > 0


@pytest.mark.slow
async def test_an_endpoint_with_a_new_identity_appears_a_hundred_times_under_load_and_no_request_fails(tmp_path: Path):
    async with routed_mesh(tmp_path, BOTH) as mesh:
        async with mesh.under_load() as under:
            for _ in range(100):
                mesh.write("services.yaml", mesh.services("api-v1"))
                await mesh.settled()
                mesh.write("services.yaml", mesh.services())
                await mesh.settled()
        print(f"{under.total} requests: {dict(under.good)}")
        assert under.bad == {}
        assert min(under.good["v1"], under.good["v2"]) > 0


async def active_timeouts(mesh: RoutedMesh) -> list[str]:
    """The connect timeouts of the service's clusters that are in use; those that are still warming are not."""
    page = await mesh.envoys["frontend"].json("/config_dump?resource=dynamic_active_clusters")
    found = [entry["cluster"] for entry in page["configs"]]
    return [each["connect_timeout"] for each in found if each["name"].endswith("|api-server")]


async def test_a_change_of_a_cluster_alone_comes_into_use_without_a_failed_request(tmp_path: Path):
    async with routed_mesh(tmp_path, {"api-v1": "v1"}) as mesh:
        assert await active_timeouts(mesh) == ["10s"]
        async with mesh.under_load() as under:
            for seconds in ("3s", "4s"):
                policy = f"{{tcp: {{connectTimeout: {seconds}}}}}"
                mesh.write(
                    "rule.yaml",
                    BREAKER.replace(
                        "connectionPool:\n      tcp: {maxConnections: 1}", f"connectionPool: {policy}"
                    ).replace("\n      http: {http1MaxPendingRequests: 1}", ""),
                )
                await mesh.settled()

                async def in_use(seconds: str = seconds) -> bool:
                    return await active_timeouts(mesh) == [seconds]

                await until(in_use)
        assert under.bad == {}
