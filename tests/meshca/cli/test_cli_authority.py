import asyncio
import json

import grpc
import pytest

from meshca.cli.exits import Exit
from meshca.proto import admin_pb2 as pb
from tests.meshca.cli.conftest import Run
from tests.support.pki import CA
from tests.support.scripted_server import ScriptedServer
from tests.support.wait import until

ROOT = CA.create("mesh.local")
AUTHORITY = pb.Authority(
    id="aa11", kind="root", state="active", issuer_id="aa11", certificate=ROOT.der, next="prepared in 6 months"
)
AUTHORITY.not_after.FromSeconds(2_000_000_000)
STEPS = [pb.Progress(step=step, text=f"it is {step}", behind=2) for step in ("prepared", "waiting", "done")]


def test_list_shows_states_and_what_happens_next(admin: ScriptedServer, run: Run):
    admin.answers["Authorities.List"] = pb.AuthorityList(authorities=[AUTHORITY])
    assert "prepared in 6 months" in run("authority", "list").out
    (authority,) = run("authority", "list", "-o", "json").json["authorities"]
    assert (authority["not_after"], authority["activated_at"]) == ("2033-05-18T03:33:20Z", None)
    assert authority["certificate"].startswith("-----BEGIN CERTIFICATE-----\n")


@pytest.mark.parametrize("step", ["activate", "taint", "revoke"])
def test_each_step_names_the_authority_and_prints_what_follows(admin: ScriptedServer, run: Run, step: str):
    outcome = pb.AuthorityOutcome(authority=AUTHORITY, remarks=["then the root is rotated"])
    admin.answers[f"Authorities.{step.title()}"] = outcome
    printed = run("authority", step, "aa11", "--kind", "root", "--force")
    assert admin.request == pb.AuthorityRequest(id="aa11", force=True, kind="root")
    assert "aa11" in printed.out
    assert printed.err == "then the root is rotated\n"
    assert run("authority", step, "aa11", "-o", "json").json["remarks"] == ["then the root is rotated"]


def test_what_the_state_forbids_is_refused_in_the_servers_words(admin: ScriptedServer, run: Run):
    admin.answers["Authorities.Prepare"] = (grpc.StatusCode.FAILED_PRECONDITION, "one root is prepared already: bb22")
    outcome = run("authority", "prepare", "--kind", "root")
    assert (outcome.code, outcome.err) == (Exit.FAILED, "error: refused: one root is prepared already: bb22\n")
    assert run("authority", "prepare", "--kind", "leaf").code == Exit.USAGE


def test_rotate_tells_each_step_as_lines_or_as_json_lines(admin: ScriptedServer, run: Run):
    admin.answers["Authorities.Rotate"] = STEPS
    outcome = run("authority", "rotate", "--kind", "root")
    assert [line.split()[1] for line in outcome.out.splitlines()] == ["prepared", "waiting", "done"]
    assert outcome.out.splitlines()[0].endswith("it is prepared (2 behind)")
    lines = run("authority", "rotate", "--kind", "root", "-o", "json").out.splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["prepared", "waiting", "done"]


async def test_rotate_without_waiting_leaves_after_the_first_step(admin: ScriptedServer, run: Run):
    admin.answers["Authorities.Rotate"] = STEPS
    outcome = await asyncio.to_thread(run, "authority", "rotate", "--kind", "intermediate", "--no-wait")
    assert len(outcome.out.splitlines()) == 1
    assert "goes on by itself" in outcome.err
    await until(lambda: admin.cancelled)


def test_a_rotation_that_fails_half_way_keeps_its_lines_and_says_why(admin: ScriptedServer, run: Run):
    admin.answers["Authorities.Rotate"] = [STEPS[0], (grpc.StatusCode.UNAVAILABLE, "Stream removed")]
    outcome = run("authority", "rotate", "--kind", "root")
    assert (outcome.code, len(outcome.out.splitlines())) == (Exit.UNREACHABLE, 1)
    assert "goes on after its next start" in outcome.err
    assert "Stream removed" not in outcome.err

    admin.answers["Authorities.Rotate"] = [(grpc.StatusCode.UNAVAILABLE, "the disk is full")]
    refused = run("authority", "rotate", "--kind", "root")
    assert (refused.code, "the disk is full" in refused.err, "goes on" in refused.err) == (
        Exit.UNREACHABLE,
        True,
        False,
    )


def test_who_is_trusted_no_longer_is_shown_as_such(admin: ScriptedServer, run: Run):
    for state, leaving, shown in (
        ("active", "tainted", "active, tainted"),
        ("tainted", "tainted", "tainted"),
        ("tainted", "revoked", "tainted, revoked"),
        ("old", "rotated", "old"),
    ):
        authority = pb.Authority(id="aa11", kind="root", state=state, leaving=leaving)
        admin.answers["Authorities.List"] = pb.AuthorityList(authorities=[authority])
        assert f"root  {shown:5}  aa11" in run("authority", "list").out
        assert run("authority", "list", "-o", "json").json["authorities"][0]["leaving"] == leaving
