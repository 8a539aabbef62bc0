import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshca.cli.canary_status import follow
from meshca.cli.exits import Exit, Failure
from meshca.cli.options import Format
from meshca.cli.router_status import tables
from meshca.router.status import serve_status
from tests.meshca.cli.conftest import Run
from tests.support.ramps import ROUTE, SERVICES

GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec:
  parentRefs: [{kind: Service, group: "", name: api-server}]
  rules: [{backendRefs: [{name: api-server, port: 80}]}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "route.yaml").write_text(ROUTE)
    return tmp_path


@pytest.fixture
def canary(run: Run, config: Path) -> Run:
    def canary(command: str, *arguments: str) -> Any:
        return run("canary", command, "api-server", "--config-dir", str(config), *arguments)

    return canary


def test_start_writes_the_ramp_into_the_users_file_and_moves_no_weight(canary: Run, config: Path):
    found = canary("start", "--to", "v2", "--step", "5", "--every", "1m", "--max-5xx", "1%", "--output", "json")
    assert found.code == Exit.OK
    assert found.json == {
        "object": "VirtualService default/api-server",
        "file": "route.yaml",
        "ramp": "to=v2 step=5 every=1m max-5xx=1%",
        "phase": "running",
        "start": 0,
        "weight": 0,
    }
    text = (config / "route.yaml").read_text()
    assert '    meshca.dev/canary: "to=v2 step=5 every=1m max-5xx=1%"\n' in text
    assert "weight: 100   # the old one" in text


@pytest.mark.parametrize(
    ("command", "option", "reason"),
    [
        ("status", "--config-dir", "it is the router that is asked, and it knows its directory: leave this out"),
        ("watch", "--config-dir", "it is the router that is asked, and it knows its directory: leave this out"),
        *((each, "--status-socket", "the router is not asked") for each in ("pause", "promote", "abort")),
    ],
)
def test_an_option_of_start_that_others_do_not_need_is_refused_with_what_they_do(
    run: Run, config: Path, command: str, option: str, reason: str
):
    needed = () if option == "--config-dir" else ("--config-dir", str(config))
    found = run("canary", command, "api-server", *needed, option, str(config))
    assert found.code == Exit.USAGE
    assert reason in " ".join(found.err.replace("\u2502", " ").split())
    assert option not in run("canary", command, "--help").out


def test_pause_start_promote_and_abort_do_what_they_say(canary: Run, config: Path):
    def weights() -> list[str]:
        lines = (config / "route.yaml").read_text().splitlines()
        return [line.split()[1] for line in lines if line.strip().startswith("weight:")]

    for command, phase, expected in (
        ("start", "running", ["100", "0"]),
        ("pause", "paused", ["100", "0"]),
        ("start", "running", ["100", "0"]),
        ("promote", "promoted", ["0", "100"]),
    ):
        options = ("--to", "v2") if command == "start" else ()
        assert canary(command, *options, "--output", "json").json["phase"] == phase
        assert weights() == expected
    (config / "route.yaml").write_text(ROUTE.replace("100", "90").replace("weight: 0", "weight: 10"))
    assert canary("start", "--to", "v2").code == Exit.OK
    assert canary("abort", "--output", "json").json["phase"] == "aborted"
    assert weights() == ["90", "10"]
    ended = canary("abort")
    assert (ended.code, "under way: aborted, aborted by hand" in ended.err) == (Exit.FAILED, True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--to", "v2", "--step", "0"), Exit.USAGE, "step 0 is not between 1 and 100"),
        (("--to", "v2", "--step", "-1"), Exit.USAGE, "step -1 is not between"),
        (("--to", "v2", "--step", "101"), Exit.USAGE, "step 101 is not between"),
        (("--to", "v2", "--every", "soon"), Exit.USAGE, "'soon' is not a time such as 30s, 1m or 2h"),
        (("--to", "v2", "--max-5xx", "1"), Exit.USAGE, "'1' is not a percentage such as 1%"),
        (("--to", "v3"), Exit.USAGE, "no rule routes to subset 'v3': write it as second destination, with `weight: 0`"),
    ],
)
def test_start_refuses(canary: Run, config: Path, options: tuple[str, ...], code: Exit, said: str):
    found = canary("start", *options)
    assert (found.code, found.out) == (code, "")
    assert said in found.err
    assert (config / "route.yaml").read_text() == ROUTE


@pytest.mark.parametrize(
    ("route", "code", "said"),
    [
        ("", Exit.NOT_FOUND, "no VirtualService that is good has the host api-server"),
        (ROUTE.replace("hosts:", "hoists:"), Exit.NOT_FOUND, "route.yaml:"),
        (GATEWAY, Exit.FAILED, "a ramp needs a VirtualService"),
        (ROUTE + "---\n" + ROUTE.replace("name: api-server", "name: second"), Exit.FAILED, "api-server is taken by"),
        (ROUTE.replace("weight: 100", "weight: 99"), Exit.USAGE, "add up to 99, not to 100"),
        (ROUTE.replace("weight: 100", "weight: 0").replace("weight: 0\n", "weight: 100\n"), Exit.FAILED, "all requests already"),
        (ROUTE.replace("      weight: 0\n", ""), Exit.USAGE, "route[1] has no weight"),
    ],
)  # fmt: skip
def test_start_refuses_routes_that_can_not_be_ramped(canary: Run, config: Path, route: str, code: Exit, said: str):
    (config / "route.yaml").write_text(route)
    hosts = "[api-server, api-server.default.svc.cluster.local]"  # Gateway API has no short names
    (config / "services.yaml").write_text(SERVICES.replace("[api-server]", hosts))
    found = canary("start", "--to", "v2")
    assert (found.code, said in found.err) == (code, True), found.err
    assert (config / "route.yaml").read_text() == route


def test_start_refuses_a_version_without_endpoints_and_a_second_ramp(canary: Run, config: Path):
    rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
    rule += "spec: {host: api-server, subsets: [{name: v2, labels: {version: v9}}]}\n"
    (config / "rule.yaml").write_text(rule)
    found = canary("start", "--to", "v2")
    assert (found.code, found.err) == (Exit.FAILED, "error: v2 has no endpoints: requests would fail\n")
    (config / "rule.yaml").unlink()
    assert canary("start", "--to", "v2").code == Exit.OK
    found = canary("start", "--to", "v2")
    assert (found.code, "running already: pause or abort it first" in found.err) == (Exit.FAILED, True)


def test_a_ramp_that_takes_no_part_any_more_says_why(canary: Run, config: Path):
    canary("start", "--to", "v2")
    path = config / "route.yaml"
    path.write_text(path.read_text().replace("weight: 100", "weight: 99"))
    found = canary("pause")
    assert found.code == Exit.FAILED
    assert "the ramp takes no part: the weights of spec.http[0].route add up to 99" in found.err


def said(phase: str = "running", weight: int = 5, **changes: Any) -> dict[str, Any]:
    """A ramp as the router's socket tells it."""
    seen = {
        "since": "2026-11-27T06:40:00.000+00:00",
        "last_report": "2026-11-27T06:40:20.000+00:00",
        "reporters": 2,
        "share": 5.25,
        "requests": 200,
        "errors": 1,
        "error_rate": 0.5,
    }
    made = {
        "object": "VirtualService default/api-server",
        "hosts": ["api-server"],
        "to": "v2",
        "phase": phase,
        "weight": weight,
        "since": "2026-11-27T06:40:00.000+00:00",
        "reason": "",
        "waits_for": "the period of 1m is not over",
        "next_step": "2026-11-27T06:41:00.000+00:00",
        "problem": "",
        "seen": seen,
    }
    return made | changes


@contextmanager
def router(path: Path, *answers: dict[str, Any]) -> Iterator[None]:
    """A status socket that tells these one after the other, and the last for ever."""
    left = list(answers)

    def tell() -> dict[str, Any]:
        canaries = [left.pop(0) if len(left) > 1 else left[0]]
        return {"objects": 2, "problems": [], "warnings": [], "proxies": [], "canaries": canaries}

    ready, loop, end = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with serve_status(path, tell):
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def test_status_shows_what_was_asked_and_what_came_about(run: Run, tmp_path: Path):
    path = tmp_path / "status.sock"
    with router(path, said(problem="it can not be written")):
        found = run("canary", "status", "--status-socket", str(path))
        lines = [line.split() for line in found.out.splitlines()]
        assert found.out.startswith("PROBLEM: VirtualService default/api-server: it can not be written\n")
        assert lines[2][:9] == ["api-server", "v2", "running", "5", "%", "5.25", "%", "1", "of"]
        assert "200 (0.50 %)" in found.out
        assert run("canary", "status", "api-server", "--status-socket", str(path), "--output", "json").json == {
            "canaries": [said(problem="it can not be written")]
        }
        other = run("canary", "status", "other", "--status-socket", str(path))
        assert (other.code, other.err) == (Exit.NOT_FOUND, "error: the router knows no ramp of other\n")
        said_too = run("router", "status", "--status-socket", str(path)).out
        assert said_too.startswith("PROBLEM: VirtualService default/api-server: it can not be written\n")
    assert run("canary", "status", "--status-socket", str(path)).code == Exit.UNREACHABLE


def test_watch_prints_what_it_saw_until_the_end_and_its_code_says_which(run: Run, tmp_path: Path):
    path = tmp_path / "status.sock"
    bad = said("stepped-back", 0, reason="2 of 100 failed", waits_for="")
    with router(path, said(), said(), said(), bad):
        found = run("canary", "watch", "api-server", "--status-socket", str(path))
    assert found.code == Exit.FAILED
    assert found.out.splitlines() == [
        "06:40:20Z v2 running: asked 5 %, achieved 5.25 %, failed 1 of 200 (0.50 %), the period of 1m is not over",
        "06:40:20Z v2 stepped-back: asked 0 %, achieved 5.25 %, failed 1 of 200 (0.50 %), 2 of 100 failed",
    ]
    with router(path, said(), said(), said("promoted", 100)):
        found = run("canary", "watch", "api-server", "--status-socket", str(path), "--output", "json")
    assert found.code == Exit.OK
    assert [json.loads(line)["phase"] for line in found.out.splitlines()] == ["running", "promoted"]


def test_a_router_that_is_started_again_is_waited_for_and_one_that_was_never_there_is_not(
    capsys: pytest.CaptureFixture[str],
):
    gone = Failure(Exit.UNREACHABLE, "no router answers")
    answers: list[list[dict[str, Any]] | Failure] = [[said()], gone, gone, [said("promoted", 100)]]

    def ask() -> list[dict[str, Any]]:
        answer = answers.pop(0)
        if isinstance(answer, Failure):
            raise answer
        return answer

    assert follow(ask, said()["object"], None, Format.TABLE) == "promoted"
    assert capsys.readouterr().err == "the router does not answer: waiting for it\n"
    answers[:] = [gone]
    with pytest.raises(Failure, match="no router answers"):
        follow(ask, said()["object"], None, Format.TABLE)
    answers[:] = [[]] * 9
    with pytest.raises(Failure, match="the router does not know this ramp of VirtualService default/api-server"):
        follow(ask, said()["object"], datetime(2026, 11, 27, tzinfo=UTC), Format.TABLE, patience=0)


def test_start_can_watch_what_it_started_and_nothing_before(canary: Run, tmp_path: Path):
    path = tmp_path / "status.sock"
    old = said("aborted", since="2020-01-01T00:00:00.000+00:00")
    new = said("promoted", 100, since="2099-01-01T00:00:00.000+00:00")
    with router(path, old, old, new):
        found = canary("start", "--to", "v2", "--watch", "--status-socket", str(path))
    assert found.code == Exit.OK
    assert "aborted" not in found.out
    assert canary("abort").code == Exit.OK
    with router(path, new):
        stream = canary("start", "--to", "v2", "--watch", "--status-socket", str(path), "--output", "json")
    assert [json.loads(line)["phase"] for line in stream.out.splitlines()] == ["running", "promoted"]
    assert found.out.splitlines()[-1].startswith("06:40:20Z v2 promoted: asked 100 %")


def test_what_is_wrong_with_the_file_of_a_ramp_is_told_once():
    broken = "vs.yaml:41: VirtualService default/api-server: spec.hosts: required"
    found = {"objects": 0, "problems": [broken], "warnings": [], "canaries": [said(problem=broken)], "proxies": []}
    shown = [each for each in tables(found) if isinstance(each, str)]
    assert [each for each in shown if "PROBLEM" in each] == [f"PROBLEM: {broken}"]
