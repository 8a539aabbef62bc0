from dataclasses import replace
from datetime import timedelta

import pytest

from meshca.router.mesh.objects import Object, Protocol, Resolution, TrafficPolicy
from meshca.router.mesh.table import ClusterKey, build
from spiffe.id import SpiffeID
from tests.support.routing import (
    OURS,
    account,
    destination_rule,
    endpoint,
    http,
    rule,
    service,
    subset,
    tcp,
    to,
    virtual,
    workload,
)

V1, V2 = endpoint("10.0.0.1", version="v1"), endpoint("10.0.0.2", version="v2")
API = service("api", V1, V2)


def test_a_short_name_is_the_host_of_a_service_entry_as_it_stands_or_else_a_name_in_the_cluster():
    inside = service("db.default.svc.cluster.local", V1)
    table = build([API, inside, virtual("api", rule(to("api"))), virtual("db", rule(to("db")))])
    assert table.problems == ()
    assert table.hosts["api"].routes[0].clusters == (ClusterKey("api", 80),)
    assert table.hosts["db.default.svc.cluster.local"].routes[0].clusters[0].host == "db.default.svc.cluster.local"


def test_the_domain_of_the_cluster_can_be_another():
    inside = service("db.default.svc.example.org", V1)
    assert build([inside, virtual("db", rule(to("db")))], "example.org").problems == ()


def test_a_subset_that_nobody_defines_is_the_endpoints_with_that_version():
    table = build([API, virtual("api", rule(to("api", "v1", 95), to("api", "v2", 5)))])
    assert table.problems == ()
    api = table.services["api"]
    assert [each.address for each in api.members("v2")] == ["10.0.0.2"]
    assert [each.address for each in api.members("")] == ["10.0.0.1", "10.0.0.2"]
    assert table.hosts["api"].routes[0].clusters == (ClusterKey("api", 80, "v1"), ClusterKey("api", 80, "v2"))
    assert ClusterKey("api", 80, "v1").name == "outbound|80|v1|api"


def test_a_subset_that_is_defined_may_be_empty_for_now():
    table = build(
        [API, destination_rule("api", subset("v3", {"version": "v3"})), virtual("api", rule(to("api", "v3")))]
    )
    assert table.problems == ()
    assert table.services["api"].members("v3") == ()


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        (
            [API, virtual("api", rule(to("api", "v3")))],
            (
                "mesh.yaml:9: VirtualService default/api: spec.http[0].route[0].destination: no DestinationRule defines subset 'v3' "
                "of api, and no endpoint of it is labelled version: v3"
            ),
        ),
        (
            [API, virtual("api", rule(to("nobody")))],
            (
                "mesh.yaml:9: VirtualService default/api: spec.http[0].route[0].destination: "
                "there is no service nobody.default.svc.cluster.local; a ServiceEntry with `hosts: [nobody]` would do, too"
            ),
        ),
        (
            [API, virtual("api", rule(to("api", port=81)))],
            "mesh.yaml:9: VirtualService default/api: spec.http[0].route[0].destination: api has no port 81, only 80",
        ),
        (
            [replace(API, ports=(http(80), http(81, "more"))), virtual("api", rule(to("api")))],
            (
                "mesh.yaml:9: VirtualService default/api: spec.http[0].route[0].destination: "
                "api has ports 80, 81: say which in destination.port.number"
            ),
        ),
        (
            [API, destination_rule("nobody.example")],
            "mesh.yaml:3: DestinationRule default/nobody.example: spec.host: there is no service nobody.example",
        ),
        (
            [API, destination_rule("api"), replace(destination_rule("api", line=7))],
            "mesh.yaml:7: DestinationRule default/api: spec.host: api has DestinationRule default/api (mesh.yaml:3) already",
        ),
        (
            [API, destination_rule("api", port_policies={443: TrafficPolicy()})],
            "mesh.yaml:3: DestinationRule default/api: spec.trafficPolicy.portLevelSettings: api has no port 443, only 80",
        ),
        (
            [API, service("api", V1, line=2)],
            "mesh.yaml:2: ServiceEntry default/api: spec.hosts[0]: api is taken by ServiceEntry default/api (mesh.yaml:1)",
        ),
        (
            [API, virtual("api", rule(to("api"))), virtual("api", rule(to("api")), name="again", line=6)],
            "mesh.yaml:6: VirtualService default/again: spec.hosts[0]: api is taken by VirtualService default/api (mesh.yaml:5)",
        ),
        (
            [service("api", replace(V1, spiffe_id=None, where="spec.endpoints[0]", line=4))],
            (
                "mesh.yaml:4: ServiceEntry default/api: spec.endpoints[0]: nothing says which SPIFFE ID is expected at 10.0.0.1: "
                "give it a serviceAccount, a WorkloadEntry the annotation meshca.dev/spiffe-id, or the service one subjectAltNames"
            ),
        ),
        (
            [service("api", replace(V1, spiffe_id=None), subject_alt_names=("api.example",))],
            "mesh.yaml:1: ServiceEntry default/api: spec.endpoints: subjectAltNames of the service is no SPIFFE ID: ",
        ),
    ],
    ids=[
        "subset",
        "service",
        "port",
        "which port",
        "rule for nobody",
        "two rules",
        "port of a rule",
        "two services",
        "two virtual services",
        "no identity",
        "no SPIFFE ID",
    ],
)
def test_a_reference_that_leads_nowhere_is_told_by_file_line_and_field(objects: list[Object], said: str):
    (problem,) = build(objects).problems
    assert str(problem).startswith(said)


@pytest.mark.parametrize("address", ["10.77.0.999", "db.example", "fe80::1%eth0"])
def test_a_workload_that_is_at_no_address_takes_no_part_in_a_service_that_wants_addresses(address: str):
    """Envoy would refuse all endpoints of the service for it, and a new one would wait for them with everything else."""
    api = service(workload_selector={"app": "api"})
    made = build([api, workload("bad", endpoint(address)), workload("good", V1)])
    assert [each.address for each in made.services["api"].endpoints] == [V1.address]
    (problem,) = made.problems
    assert problem.label == "WorkloadEntry default/bad"
    assert problem.field == "spec.address"
    assert "is not an IP address: api, which selects it" in problem.text
    assert build([replace(api, resolution=Resolution.DNS), workload("bad", endpoint(address))]).problems == ()


def test_a_workload_without_identity_is_told_with_the_place_where_it_is_written():
    bad = workload("bad", replace(V1, spiffe_id=None))
    (problem,) = build([service(workload_selector={"app": "api"}), bad]).problems
    assert (problem.label, problem.line) == ("ServiceEntry default/api", 1)
    assert problem.text.startswith(f"WorkloadEntry default/bad ({bad.origin.file}:{bad.origin.line}): nothing says")


def test_what_is_wrong_takes_no_part_and_harms_no_other():
    good = virtual("api", rule(to("api")), name="good", line=20)
    table = build([API, virtual("other", rule(to("api")), rule(to("nobody")), line=4), good])
    assert list(table.hosts) == ["api"]
    assert len(table.problems) == 1


def test_endpoints_are_the_inline_ones_and_the_workloads_that_are_selected():
    entry = service("api", V1, workload_selector={"app": "api"}, ports=(http(80, target_port=8080), tcp(5432)))
    chosen = workload("v2", replace(V2, ports={"http": 9090}, weight=3))
    others = [workload("other", replace(V2, labels={"app": "other"})), workload("far", V2, namespace="far")]
    found = build([entry, chosen, *others]).services["api"].endpoints
    assert [(each.address, each.ports, each.weight) for each in found] == [
        ("10.0.0.1", {80: 8080, 5432: 5432}, None),
        ("10.0.0.2", {80: 9090, 5432: 5432}, 3),
    ]
    assert {each.identity for each in found} == {account("api")}


def test_a_workload_is_selected_by_all_labels_and_not_by_some():
    entry = service("api", workload_selector={"app": "api", "version": "v2"})
    most = [workload(f"v1-{number}", V1) for number in range(3)]
    found = build([entry, *most, workload("v2", V2), workload("other", replace(V2, labels={"version": "v2"}))])
    assert [each.address for each in found.services["api"].endpoints] == [V2.address]


def test_what_a_table_takes_from_the_one_before_is_as_if_it_were_made_anew():
    by_hand, selecting = service("api", V1), service("picked", workload_selector={"app": "api"}, line=2)
    before = build([by_hand, selecting, workload("w", V2)])
    after = [service("api", replace(V1, address="10.0.0.9")), selecting, workload("w", replace(V2, address="10.0.0.8"))]
    assert build(after, before=before) == build(after)
    assert build([by_hand, selecting], before=before).services["api"].endpoints is before.services["api"].endpoints


def test_what_is_equal_to_that_of_the_table_before_is_the_very_same_object():
    objects = [API, service("other", V1, line=2), destination_rule("api"), virtual("api", rule(to("api", "v1")))]
    before = build(objects)
    after = build([replace(each) for each in objects] + [service("new", V2, line=9)], before=before)
    assert all(after.services[host] is each for host, each in before.services.items())
    assert after.hosts["api"] is before.hosts["api"]
    moved = build([service("api", V1), *objects[1:3]], before=before).services
    assert moved["api"] != before.services["api"]
    assert moved["other"] is before.services["other"]


def test_a_service_knows_by_whom_and_where_it_is_called():
    outside, other = service("bank", V1, external=True, line=2), account("other")
    table = build([service("api", V1, replace(V2, spiffe_id=other), V2, ports=(http(80), tcp(90))), outside])
    api, bank = table.services["api"], table.services["bank"]
    first, second, third = api.endpoints
    assert api.by_identity == {account("api"): [first, third], other: [second]}
    assert {(place.identity, place.address, place.port) for place in api.places} == {
        (account("api"), "10.0.0.1", 80),
        (account("api"), "10.0.0.1", 90),
        (account("api"), "10.0.0.2", 80),
        (account("api"), "10.0.0.2", 90),
        (other, "10.0.0.2", 80),
        (other, "10.0.0.2", 90),
    }
    assert (bank.by_identity, bank.places) == ({}, frozenset())


def test_a_service_that_is_found_by_dns_is_its_own_endpoint_and_one_outside_has_no_identity():
    outside = service("www.example.org", resolution=Resolution.DNS, external=True)
    (found,) = build([outside]).services["www.example.org"].endpoints
    assert (found.address, found.identity) == ("www.example.org", None)


def test_the_one_subject_alt_name_of_a_service_is_what_its_endpoints_must_show():
    entry = service("api", replace(V1, spiffe_id=None), subject_alt_names=("spiffe://mesh.local/api",))
    (found,) = build([entry]).services["api"].endpoints
    assert found.identity == SpiffeID(OURS, "/api")


def test_a_policy_of_a_subset_overlays_that_of_its_host_field_by_field():
    special = subset(
        "v1", {"version": "v1"}, policy=TrafficPolicy(max_requests=2), port_policies={80: TrafficPolicy(max_retries=9)}
    )
    written = destination_rule(
        "api",
        special,
        policy=TrafficPolicy(max_requests=1, max_connections=7, connect_timeout=timedelta(seconds=1)),
        port_policies={80: TrafficPolicy(connect_timeout=timedelta(seconds=2))},
    )
    api = build([API, written]).services["api"]
    assert api.policy(80) == TrafficPolicy(max_requests=1, max_connections=7, connect_timeout=timedelta(seconds=2))
    assert api.policy(80, "v1") == replace(api.policy(80), max_requests=2, max_retries=9)
    assert api.policy(81) == written.policy
    assert build([API]).services["api"].policy(80) == TrafficPolicy()


def test_only_http_has_requests():
    assert [each for each in Protocol if not each.is_http] == [Protocol.TCP, Protocol.TLS]
