import re
from dataclasses import replace
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshca.errors import RefusalReason
from meshca.model import Kind, State
from meshca.telemetry import Standing, Telemetry
from sds.observe import Observer
from tests.support.pki import CA
from tests.support.values import slot, slots

ROOT = CA.create("example.org")
EMPTY = Standing(ready=False, slots=slots())


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(version="1.2.3")


def samples(telemetry: Telemetry, standing: Standing = EMPTY) -> dict[str, float]:
    """Values by name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(telemetry.render(standing).decode())
    return {
        f"{each.name}{{{','.join(f'{key}={value}' for key, value in sorted(each.labels.items()))}}}".replace(
            "{}", ""
        ): each.value
        for family in families
        for each in family.samples
    }


def test_issuances_and_refusals_are_counted_by_reason_and_signing_is_timed(telemetry: Telemetry) -> None:
    telemetry.issued(64)
    telemetry.issued()
    telemetry.refused("lint")
    telemetry.stage("sign", 0.0003)
    found = samples(telemetry)
    assert found["meshca_svids_issued_total"] == 65
    assert found["meshca_issuance_refusals_total{reason=lint}"] == 1
    assert found["meshca_issuance_stage_seconds_sum{stage=sign}"] == 0.0003
    assert found["meshca_issuance_stage_seconds_bucket{le=0.0005,stage=sign}"] == 1
    assert found["meshca_issuance_stage_seconds_bucket{le=0.00025,stage=sign}"] == 0


def test_streams_are_observed_by_service_and_start_at_zero(telemetry: Telemetry) -> None:
    assert samples(telemetry)["meshca_nacks_total{service=sds}"] == 0
    observer: Observer = telemetry
    for _ in range(2):
        observer.stream_opened("sds")
    observer.stream_closed("sds")
    observer.pushed("sds")
    observer.acked("sds", 0.02)
    observer.nacked("sds")
    observer.denied("workload_api")
    telemetry.connection_shed()
    found = samples(telemetry)
    assert found["meshca_streams_open{service=sds}"] == 1
    assert found["meshca_streams_open{service=workload_api}"] == 0
    assert {name: found[f"meshca_{name}_total{{service=sds}}"] for name in ("pushes", "acks", "nacks", "denials")} == {
        "pushes": 1, "acks": 1, "nacks": 1, "denials": 0,
    }  # fmt: skip
    assert found["meshca_denials_total{service=workload_api}"] == 1
    assert found["meshca_delivery_latency_seconds_sum{service=sds}"] == 0.02
    assert found["meshca_connections_shed_total"] == 1


def test_each_reason_to_refuse_is_there_before_the_first_refusal(telemetry: Telemetry) -> None:
    found = samples(telemetry)
    assert {found[f"meshca_issuance_refusals_total{{reason={reason}}}"] for reason in get_args(RefusalReason)} == {0}


def test_how_things_stand_is_what_it_is_at_each_scrape(telemetry: Telemetry) -> None:
    root = slot(ROOT.certificate)
    standing = Standing(
        ready=True,
        slots=replace(slots(), slots=(root, replace(root, id="b", state=State.OLD))),
        earliest_leaf=root.not_after,
        holders=5, behind=2, alarms=1, audit_head=77, connections=9,
    )  # fmt: skip
    found = samples(telemetry, standing)
    end = root.not_after.timestamp()
    gauges = {
        "ready": 1, "holders": 5, "holders_behind": 2, "alarms": 1, "audit_head_sequence": 77, "connections_open": 9,
    }  # fmt: skip
    assert {key: found[f"meshca_{key}"] for key in gauges} == gauges
    assert [found[f"meshca_authorities{{kind=root,state={state}}}"] for state in State] == [0, 1, 1, 0]
    assert [found[f"meshca_earliest_expiry_timestamp_seconds{{credential={kind}}}"] for kind in (*Kind, "leaf")] == [
        end,
        0,
        end,
    ]
    found = samples(telemetry)
    assert (found["meshca_ready"], found["meshca_authorities{kind=root,state=active}"]) == (0, 0)
    assert found["meshca_earliest_expiry_timestamp_seconds{credential=root}"] == 0


def test_two_of_them_share_nothing_and_names_follow_the_conventions(telemetry: Telemetry) -> None:
    telemetry.issued()
    assert samples(Telemetry(version="1"))["meshca_svids_issued_total"] == 0
    ours = [family for family in telemetry.registry.collect() if family.name.startswith("meshca_")]
    assert {family.name: family.documentation for family in ours if not family.documentation.endswith(".")} == {}
    assert all(re.fullmatch(r"meshca_[a-z_]+", family.name) for family in ours)
    assert all(family.name.endswith("_seconds") for family in ours if family.type == "histogram")
    assert samples(telemetry)["meshca_build_info{version=1.2.3}"] == 1
    assert samples(telemetry)["process_open_fds"] > 0
