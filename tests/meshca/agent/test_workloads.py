"""Stories of workloads: the real Provider over a scripted CA, with real keys and processes that really run."""

import asyncio
import grp
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.adapters.processes import has_ended
from meshca.adapters.workload_unix import UnixAttestor
from meshca.agent.holding import LONGEST_RECONNECT
from meshca.agent.workloads import LIFE_CHECK_SECONDS, Workloads
from meshca.errors import IssuanceRefused, NotFound
from meshca.model import Entry, HolderReport, Issued
from meshca.ports import WorkloadAttestor
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.peer import start_time
from sds.provider import Grants, Proof, Subscription
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain
from tests.support.children import python
from tests.support.clock import FakeClock
from tests.support.pki import CA
from tests.support.scripted import OURS, ScriptedAttestor, ScriptedAuthority, authority_id
from tests.support.values import entry, selectors
from tests.support.wait import until

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
EXECUTABLE = Path("/proc/self/exe").readlink()


def web(**changes: Any) -> Entry:
    return entry("web", **{"selectors": selectors("socket:web")} | changes)


def caller(socket: str = "web", pid: int = 0) -> UnixPeer:
    pid = pid or os.getpid()
    return UnixPeer(pid=pid, uid=0, gid=0, started=start_time(pid), socket=socket)


class Stage:
    """What a story plays on."""

    def __init__(
        self, authority: type[ScriptedAuthority] = ScriptedAuthority, attestor: WorkloadAttestor | None = None
    ) -> None:
        self.clock = FakeClock()
        self.authority = authority(clock=self.clock)
        self.attestor = ScriptedAttestor()
        self.attestor.sees("web", "socket:web")
        self.workloads = Workloads(
            authority=self.authority,
            attestor=attestor or self.attestor,
            clock=self.clock,
            make_key=lambda: ec.generate_private_key(ec.SECP256R1()),
            find=lambda pid: caller("", pid),
            nap=0.01,
        )

    @property
    def digest(self) -> str:
        return self.authority.view.value.bundles[OURS].digest

    @property
    def requests(self) -> list[str]:
        return [request.entry_id for batch in self.authority.batches for request in batch]


@asynccontextmanager
async def played(stage: Stage) -> AsyncIterator[Stage]:
    task = asyncio.create_task(stage.workloads.run())
    yield stage
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with played(Stage()) as made:
        yield made


@asynccontextmanager
async def streams(stage: Stage, *callers: UnixPeer) -> AsyncIterator[list[Subscription]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(stage.workloads.subscribe(each)) for each in callers]


def ids(grants: Grants) -> list[str]:
    return [identity.svid.spiffe_id.path for identity in grants.identities]


def serials(subscription: Subscription) -> list[int]:
    return [identity.svid.serial for identity in subscription.grants.value.identities]


async def granted(subscription: Subscription, *paths: str) -> Grants:
    return await until(lambda: ids(subscription.grants.value) == list(paths) and subscription.grants.value)


async def renewed(subscription: Subscription, before: int) -> int:
    return await until(
        lambda: serials(subscription) and serials(subscription)[0] != before and serials(subscription)[0]
    )


async def denied(subscription: Subscription) -> Grants:
    return await until(lambda: subscription.grants.value.denied and subscription.grants.value)


@contextmanager
def no_files_left() -> Iterator[None]:
    """Let this process open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def settled(stage: Stage) -> None:
    """Until the loop has slept and woken again, so that whatever was to happen has happened."""
    for _ in range(3):
        turn = len(stage.authority.reports)
        await asyncio.sleep(0.02)
        assert len(stage.authority.reports) >= turn


async def test_a_caller_with_two_entries_gets_both_and_the_default_is_first(stage: Stage):
    stage.authority.start(web(hint="x"), web(id="other", spiffe_id=entry("other").spiffe_id, default=True, hint="x"))
    async with streams(stage, caller()) as [stream]:
        assert stream.grants.value.pending
        grants = await granted(stream, "/other", "/web")

    assert [identity.hint for identity in grants.identities] == ["x", ""]
    assert (grants.pending, grants.denied) == (False, "")
    assert grants.bundles[OURS].digest == stage.digest
    assert len(stage.authority.batches) == 1
    assert len({id(identity.svid.private_key) for identity in grants.identities}) == 2


async def test_all_streams_of_a_process_share_its_leaf_and_a_reconnect_finds_it_again(stage: Stage):
    stage.authority.start(web())
    connection = caller()
    async with streams(stage, connection, connection, caller()) as [one, two, three]:
        await granted(one, "/web")
        held = serials(one)
        assert serials(two) == serials(three) == held
    async with streams(stage, caller()) as [again]:
        assert serials(again) == held
    assert stage.requests == ["web"]
    assert stage.attestor.asked == ["web"] * 3  # once for each connection


async def test_an_entry_that_comes_late_is_granted_and_one_that_goes_is_denied_with_the_reason(stage: Stage):
    stage.authority.start()
    async with streams(stage, caller()) as [stream]:
        assert "there are no entries" in stream.grants.value.denied
        stage.authority.change(entries=(web(),))
        await granted(stream, "/web")

        stage.authority.change(entries=(web(selectors=selectors("socket:web", "unix:uid:7")),))

        grants = await denied(stream)
    assert "(entry web) also wants unix:uid:7" in grants.denied
    assert (grants.identities, len(grants.bundles), grants.cut_off) == ((), 0, False)


async def test_a_deletion_now_cuts_off_who_held_a_leaf_until_it_would_have_expired(stage: Stage):
    stage.authority.start(web())
    stage.attestor.sees("stranger", "socket:stranger")
    async with streams(stage, caller(), caller("stranger")) as [stream, stranger]:
        await granted(stream, "/web")

        stage.authority.change(entries=(), cut_off=frozenset({"web"}))

        assert (await denied(stream)).cut_off
        assert not (await denied(stranger)).cut_off
        async with streams(stage, caller()) as [again]:
            assert again.grants.value.cut_off
        stage.clock.advance(HOUR)
        await until(lambda: not stream.grants.value.cut_off)


async def test_a_deletion_now_takes_one_identity_of_several_and_cuts_off_once_none_is_left(stage: Stage):
    db = entry("db", selectors=selectors("socket:web"))
    stage.authority.start(web(), db)
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/db", "/web")

        stage.authority.change(entries=(db,), cut_off=frozenset({"web"}))

        grants = await granted(stream, "/db")
        assert (grants.cut_off, grants.denied) == (False, "")

        stage.authority.change(entries=())

        assert (await denied(stream)).cut_off


async def test_before_the_ca_is_there_nobody_is_denied(stage: Stage):
    async with streams(stage, caller()) as [stream]:
        assert stream.grants.value == Grants(trust_domain=OURS, pending=True)
        stage.authority.start(web())
        await granted(stream, "/web")


async def test_a_leaf_is_renewed_at_half_its_life_with_a_new_key(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        before = (await granted(stream, "/web")).identities[0].svid
        stage.clock.advance(HOUR * 0.44)
        await settled(stage)
        assert serials(stream) == [before.serial]
        stage.clock.advance(HOUR * 0.12)
        await renewed(stream, before.serial)
        after = stream.grants.value.identities[0].svid
    assert after.leaf.public_key() != before.leaf.public_key()


async def test_a_process_without_streams_keeps_its_leaf_unrenewed_and_is_forgotten_with_it(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
    stage.clock.advance(HOUR * 0.6)
    await settled(stage)
    assert stage.requests == ["web"]
    stage.clock.advance(HOUR)
    await until(lambda: not stage.workloads._workloads)
    assert stage.requests == ["web"]


async def test_leaves_below_an_authority_to_be_left_are_replaced_at_once_and_reported_when_the_new_ones_are_held(
    stage: Stage,
):
    stage.authority.start(web())
    connection = caller()
    async with streams(stage, connection, connection) as [one, two]:
        await granted(one, "/web")
        old = serials(one)[0]
        for stream in (one, two):
            stream.delivered(Proof(serials=frozenset({old})))

        stage.authority.rotate_intermediate()

        new = await renewed(one, old)
        one.delivered(Proof(serials=frozenset({new})))
        await settled(stage)
        assert stage.authority.holder(connection.holder).replaced == frozenset()
        two.delivered(Proof(serials=frozenset({new, 12345})))
        await until(lambda: stage.authority.holder(connection.holder).replaced == {old})
    assert stage.requests == ["web", "web"]


async def test_leaves_below_a_root_that_was_dropped_by_force_are_replaced_at_once(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        old = serials(stream)[0]
        stage.authority.roots[:] = [CA.create(OURS.name)]
        stage.authority.issuers.append(stage.authority.roots[-1].intermediate())
        stage.authority.change(
            bundles=stage.authority.bundles(), active=authority_id(stage.authority.issuers[-1]), replace=frozenset()
        )
        await renewed(stream, old)
    assert stage.requests == ["web", "web"]


async def test_no_leaf_is_asked_for_while_the_authority_to_be_left_is_the_one_that_signs(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stage.authority.change(replace=frozenset({stage.authority.view.value.active}))
        await settled(stage)
    assert stage.requests == ["web"]


async def test_a_ca_that_fails_costs_nobody_a_valid_leaf_and_is_asked_again_until_it_answers(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        old = serials(stream)[0]
        stage.authority.down.set()
        stage.clock.advance(HOUR * 0.6)
        for failures in (2, 3, 4):
            await until(lambda failures=failures: len(stage.authority.batches) == failures)
            await settled(stage)
            assert len(stage.authority.batches) == failures  # and not again until time has passed
            assert serials(stream) == [old]
            stage.clock.advance(30 * SECOND)
        explanation = await stage.workloads.explain(os.getpid())
        assert any("the disk is full" in line for line in explanation.holds)

        stage.authority.down.clear()
        stage.clock.advance(30 * SECOND)
        await renewed(stream, old)


async def test_an_expired_leaf_is_no_longer_served(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stage.authority.refusals["web"] = IssuanceRefused("issuer_expiring", "the issuer ends too soon")
        stage.clock.advance(HOUR)
        await until(lambda: stream.grants.value.pending)
        assert (stream.grants.value.identities, stream.grants.value.denied) == ((), "")
        assert OURS in stream.grants.value.bundles


async def test_a_clock_that_was_set_back_loses_nothing_and_holds_up_no_try(stage: Stage):
    stage.authority.start(web())
    stage.authority.down.set()
    async with streams(stage, caller()) as [stream]:
        await until(lambda: len(stage.authority.batches) == 1)
        stage.authority.down.clear()
        stage.clock.jump(-2 * HOUR)
        await granted(stream, "/web")
        old = serials(stream)[0]
        stage.clock.jump(-5 * SECOND)
        await settled(stage)
        assert serials(stream) == [old]
        stage.clock.jump(-HOUR)
        await until(lambda: serials(stream) != [old])  # it is dated in the future, and nobody would take it
        (identity,) = stream.grants.value.identities
        assert identity.svid.leaf.not_valid_before_utc <= stage.clock.now()


async def test_a_stream_that_does_not_come_back_is_given_up_after_a_while_and_not_because_somebody_set_the_clock(
    stage: Stage,
):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stays]:
        await granted(stays, "/web")
        async with streams(stage, caller()) as [ends]:
            ends.delivered(Proof(bundle="older"))
            stays.delivered(Proof(bundle=stage.digest))
        stage.clock.jump(HOUR / 4)
        await settled(stage)
        assert [each.bundle for each in stage.authority.reports if each.bundle] == []
        stage.clock.advance(LONGEST_RECONNECT * SECOND + SECOND)
        await until(lambda: [each.bundle for each in stage.authority.reports if each.bundle] == [stage.digest])


async def test_a_bundle_change_reaches_the_grants_while_leaves_are_still_being_issued(stage: Stage):
    stage.authority.start(web())
    partner = TrustDomain("partner.example")
    theirs = Bundle(trust_domain=partner, x509_authorities=(CA.create(partner.name).certificate,))
    stage.authority.open.clear()
    async with streams(stage, caller()) as [stream]:
        await until(lambda: stage.authority.batches)
        stage.authority.roots.append(CA.create(OURS.name))
        stage.authority.change(
            entries=(web(federates_with=frozenset({partner, TrustDomain("empty.example")})),),
            bundles=stage.authority.bundles()
            .with_bundle(theirs)
            .with_bundle(Bundle(trust_domain=TrustDomain("empty.example"), x509_authorities=())),
        )
        await until(lambda: set(stream.grants.value.bundles) == {OURS, partner})
        assert stream.grants.value.bundles[OURS].digest == stage.digest
        assert stream.grants.value.pending
        stage.authority.open.set()
        await granted(stream, "/web")


async def test_what_the_whole_process_holds_is_reported_and_stays_true_after_its_streams(stage: Stage):
    stage.authority.start(web())
    connection = caller()
    async with streams(stage, connection, connection) as [one, two]:
        one.delivered(Proof(bundle="first"))
        await until(lambda: stage.authority.holder(connection.holder).bundle == "first")
        two.delivered(Proof(bundle="second"))
        await until(lambda: stage.authority.holder(connection.holder).bundle == "")
        one.delivered(Proof(bundle="second"))
        await until(lambda: stage.authority.holder(connection.holder).bundle == "second")
    await settled(stage)
    assert stage.authority.holder(connection.holder) == HolderReport(holder=connection.holder, bundle="second")


async def test_a_process_that_dials_and_leaves_over_and_over_leaves_no_trace_of_each_time(stage: Stage):
    stage.authority.start(web())
    for _ in range(20):
        async with streams(stage, caller()) as [stream]:
            await granted(stream, "/web")
        await settled(stage)
    assert len(stage.workloads._timetable) <= 3


async def test_a_process_that_ends_while_a_child_keeps_its_connection_gets_nothing_more(stage: Stage):
    stage.authority.start(web())
    process = await asyncio.create_subprocess_exec(*python("input()"), stdin=asyncio.subprocess.PIPE)
    peer = caller(pid=process.pid)
    async with streams(stage, peer) as [stream]:
        await granted(stream, "/web")
        await process.communicate(b"\n")
        stage.clock.advance(timedelta(seconds=LIFE_CHECK_SECONDS))
        assert "has ended" in (await denied(stream)).denied
        await until(lambda: stage.authority.holder(peer.holder).gone)
    await until(lambda: not stage.workloads._workloads)
    with pytest.raises(NotFound, match=str(process.pid)):
        await stage.workloads.explain(process.pid)


async def test_a_process_that_ended_with_its_last_stream_is_reported_gone(stage: Stage):
    stage.authority.start(web())
    process = await asyncio.create_subprocess_exec(*python("input()"), stdin=asyncio.subprocess.PIPE)
    peer = caller(pid=process.pid)
    async with streams(stage, peer) as [stream]:
        await granted(stream, "/web")
        await process.communicate(b"\n")
    await until(lambda: stage.authority.holder(peer.holder).gone)


async def test_a_caller_that_is_dead_already_is_nobody(stage: Stage):
    stage.authority.start(web())
    with pytest.raises(NotAuthorized, match="has ended"):
        async with stage.workloads.subscribe(caller("nowhere")):
            pass


async def test_a_process_that_runs_another_binary_loses_what_relied_on_the_first_and_does_not_gain_the_second(
    stage: Stage,
):
    stage.authority.start(
        web(selectors=selectors("socket:web", "unix:path:/bin/a")),
        web(id="b", spiffe_id=entry("b").spiffe_id, selectors=selectors("unix:path:/bin/b")),
    )
    stage.attestor.sees("web", "socket:web", "unix:path:/bin/a")
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")

        stage.attestor.sees("web", "socket:web", "unix:path:/bin/b")
        stage.authority.rotate_intermediate()

        assert "also wants unix:path:/bin/" in (await denied(stream)).denied
        async with streams(stage, caller()) as [again]:  # a new connection is attested anew
            await granted(again, "/b")


async def test_a_process_is_read_again_for_each_stream_and_loses_all_that_relied_on_what_can_no_longer_be_read(
    stage: Stage,
):
    stage.authority.start(web(selectors=selectors("unix:path:/bin/a")))
    stage.attestor.sees("web", "unix:path:/bin/a")
    connection = caller()
    async with streams(stage, connection) as [stream]:
        await granted(stream, "/web")
        asked = len(stage.attestor.asked)
        del stage.attestor.facts["web"]
        async with streams(stage, connection) as [second]:
            assert second.grants.value.denied
        assert stream.grants.value.denied
        assert len(stage.attestor.asked) == asked + 1


async def test_a_process_that_we_are_too_short_of_files_to_look_at_keeps_what_it_has():
    async with played(Stage(attestor=UnixAttestor())) as stage:
        stage.authority.start(web(selectors=selectors(f"unix:path:{EXECUTABLE}")))
        async with streams(stage, caller()) as [stream]:
            first = await granted(stream, "/web")
            with no_files_left():
                stage.clock.advance(timedelta(seconds=LIFE_CHECK_SECONDS))
                stage.authority.change(entries=(*stage.authority.view.value.entries, entry("late")))
                await settled(stage)
                assert not has_ended(next(iter(stage.workloads._workloads)))
            assert stream.grants.value == first
            stage.authority.change(entries=(web(selectors=selectors(f"unix:path:{EXECUTABLE}"), hint="later"),))
            stage.clock.advance(2 * SECOND)
            await until(lambda: [each.hint for each in stream.grants.value.identities] == ["later"])


async def test_a_process_of_which_nothing_can_be_made_out_keeps_what_it_has_and_holds_up_nobody(
    stage: Stage, caplog: pytest.LogCaptureFixture
):
    program, late = selectors("unix:path:/bin/a"), entry("late", selectors=selectors("unix:path:/bin/a"))
    stage.authority.start(web(selectors=program))
    for each in ("web", "other"):
        stage.attestor.sees(each, "unix:path:/bin/a")
    async with streams(stage, caller(), caller("other")) as [stream, other]:
        first = await granted(stream, "/web")
        stage.attestor.failures["web"] = ValueError("no such field")

        stage.authority.change(entries=(web(selectors=program), late))

        await granted(other, "/late", "/web")
        assert stream.grants.value == first
        assert [(each.message, each.reason) for each in caplog.records] == [
            ("process not read", "ValueError('no such field')")
        ]
        del stage.attestor.failures["web"]
        stage.clock.advance(2 * SECOND)
        await granted(stream, "/late", "/web")


async def test_a_process_that_is_read_without_end_keeps_only_processes_of_its_user_waiting(stage: Stage):
    program = selectors("unix:path:/bin/a")
    stage.authority.start(web(selectors=program))
    for each in ("web", "slow"):
        stage.attestor.sees(each, "unix:path:/bin/a")
    async with streams(stage, replace(caller("slow"), uid=1000), caller()) as [slow, stream]:
        first = await granted(slow, "/web")
        await granted(stream, "/web")
        stage.attestor.stalled.add("slow")

        stage.authority.change(entries=(web(selectors=program, hint="new"),))

        await until(lambda: [each.hint for each in stream.grants.value.identities] == ["new"])
        assert slow.grants.value == first


async def test_a_process_that_is_found_dead_when_it_is_read_again_is_gone(stage: Stage):
    stage.authority.start(web(selectors=selectors("unix:path:/bin/a")))
    stage.attestor.sees("web", "unix:path:/bin/a")
    process = await asyncio.create_subprocess_exec(*python("input()"), stdin=asyncio.subprocess.PIPE)
    peer = caller(pid=process.pid)
    async with streams(stage, peer) as [stream]:
        await granted(stream, "/web")
        await process.communicate(b"\n")
        del stage.attestor.facts["web"]
        stage.authority.rotate_intermediate()
        assert "has ended" in (await denied(stream)).denied
        await until(lambda: stage.authority.holder(peer.holder).gone)


async def test_a_leaf_that_comes_for_a_process_that_has_ended_meanwhile_is_nobodys(stage: Stage):
    stage.authority.start(web())
    stage.authority.open.clear()
    process = await asyncio.create_subprocess_exec(*python("input()"), stdin=asyncio.subprocess.PIPE)
    peer = caller(pid=process.pid)
    async with streams(stage, peer):
        await until(lambda: stage.authority.batches)
        await process.communicate(b"\n")
    await until(lambda: stage.authority.holder(peer.holder).gone)
    told = len(stage.authority.reports)
    stage.authority.open.set()
    await until(lambda: len(stage.authority.reports) > told)  # for by now the CA counts one more leaf of it
    assert stage.authority.reports[-1] == HolderReport(holder=peer.holder, gone=True)
    await until(lambda: not stage.workloads._workloads)


class ConfusedAuthority(ScriptedAuthority):
    """Signs for another key than it was asked to."""

    def _sign(self, made: Entry, _: Any, holder: str) -> Issued:
        return super()._sign(made, ec.generate_private_key(ec.SECP256R1()).public_key(), holder)


async def test_a_certificate_for_another_key_is_never_served(caplog: pytest.LogCaptureFixture):
    async with played(Stage(ConfusedAuthority)) as stage:
        stage.authority.start(web())
        async with streams(stage, caller()) as [stream]:
            await until(lambda: caplog.records)
            assert stream.grants.value.pending
    assert "private key is not that of the leaf" in caplog.records[0].reason


@pytest.mark.parametrize("changed", [{"uid": 2000}, {"gid": 2000}])
async def test_what_a_process_gets_as_another_user_does_not_reach_connections_it_made_before(changed: dict[str, int]):
    async with played(Stage(attestor=UnixAttestor())) as stage:
        victim = [f"unix:{name}:{number}" for name, number in changed.items()]
        stage.authority.start(web(selectors=selectors("unix:uid:1000")), entry("victim", selectors=selectors(*victim)))
        before = replace(caller(), uid=1000, gid=1000)
        async with streams(stage, before) as (lent,):
            first = await granted(lent, "/web")
            async with streams(stage, replace(before, **changed)) as (dialled_after_exec,):
                await until(lambda: "/victim" in ids(dialled_after_exec.grants.value))
                await settled(stage)
                assert lent.grants.value == first


async def test_a_process_whose_entries_want_only_what_the_kernel_vouches_for_is_read_once(stage: Stage):
    stage.authority.start(web(), entry("p", selectors=selectors("unix:path:/bin/p")))
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        old = serials(stream)[0]
        stage.authority.rotate_intermediate()
        await renewed(stream, old)
    assert stage.attestor.asked == ["web"]


@pytest.mark.parametrize(("path", "expected"), [("unix:path:/bin/a", ["/web"]), ("unix:path:/bin/b", [])])
async def test_a_late_entry_that_wants_a_hash_is_granted_only_if_the_process_still_runs_the_same(
    stage: Stage, path: str, expected: list[str]
):
    stage.authority.start()
    stage.attestor.sees("web", "unix:path:/bin/a", "unix:sha256:aa")
    async with streams(stage, caller()) as [stream]:
        await denied(stream)
        stage.attestor.sees("web", path, "unix:sha256:aa")
        stage.authority.change(entries=(web(selectors=selectors("unix:sha256:aa")),))
        await until(lambda: len(stage.attestor.asked) >= 2)
        await settled(stage)
        assert ids(stream.grants.value) == expected


async def test_names_of_groups_that_an_entry_asks_for_late_or_again_are_granted():
    named, group = web(selectors=selectors("socket:web")), grp.getgrgid(os.getegid()).gr_name
    async with played(Stage(attestor=UnixAttestor())) as stage:
        stage.authority.start(named)
        async with streams(stage, caller()) as [stream]:
            await granted(stream, "/web")
            for _ in range(2):
                stage.authority.change(entries=(named, entry("late", selectors=selectors(f"unix:group:{group}"))))
                await granted(stream, "/late", "/web")
                path = entry("path", selectors=selectors(f"unix:path:{EXECUTABLE}"))
                stage.authority.change(entries=(named, path))
                await granted(stream, "/path", "/web")


async def test_an_entry_that_comes_while_a_caller_is_attested_counts(stage: Stage):
    stage.authority.start()
    stage.attestor.sees("web", "unix:path:/bin/a", "unix:sha256:aa")
    async with AsyncExitStack() as stack:
        subscribing = asyncio.create_task(stack.enter_async_context(stage.workloads.subscribe(caller())))
        await until(lambda: stage.attestor.asked, every=0)
        stage.authority.change(entries=(web(selectors=selectors("unix:sha256:aa")),))
        await granted(await subscribing, "/web")


async def test_the_default_stays_until_the_new_default_has_its_leaf(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stage.authority.open.clear()
        stage.authority.change(entries=(web(), web(id="d", spiffe_id=entry("d").spiffe_id, default=True)))
        await until(lambda: len(stage.authority.batches) == 2)
        assert ids(stream.grants.value) == ["/web"]
        stage.authority.open.set()
        await granted(stream, "/d", "/web")


async def test_nobody_gets_the_next_identity_for_the_default_that_was_refused(stage: Stage):
    stage.authority.start(web(), web(id="d", spiffe_id=entry("d").spiffe_id, default=True))
    stage.authority.refusals["d"] = IssuanceRefused("lint", "no such name")
    async with streams(stage, caller()) as [stream]:
        await until(lambda: stage.authority.batches)
        await settled(stage)
        assert (stream.grants.value.identities, stream.grants.value.pending) == ((), True)


@pytest.mark.parametrize(
    "changes", [{"spiffe_id": entry("renamed").spiffe_id}, {"dns_names": ("web.example.org",)}], ids=["id", "dns"]
)
async def test_an_entry_that_says_something_else_gets_a_new_leaf(stage: Stage, changes: dict[str, Any]):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        old = serials(stream)[0]
        changed = replace(web(), **changes)
        stage.authority.change(entries=(changed,))
        await renewed(stream, old)
        assert ids(stream.grants.value) == [changed.spiffe_id.path]
    assert stage.requests == ["web", "web"]


async def test_a_leaf_that_is_stale_as_it_comes_is_not_asked_for_without_end(stage: Stage):
    stage.authority.start(web())
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stage.authority.change(replace=frozenset({stage.authority.view.value.active}), active="another")
        await until(lambda: len(stage.authority.batches) == 2)
        await settled(stage)
    assert len(stage.authority.batches) == 2


async def test_an_entry_ends_when_it_expires(stage: Stage):
    stage.authority.start(web(expires_at=stage.clock.now() + 10 * SECOND))
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stage.clock.advance(10 * SECOND)
        assert "(entry web) expired at 2030-01-01" in (await denied(stream)).denied


async def test_a_thousand_workloads_are_served_in_a_few_batches(stage: Stage):
    callers = [caller(f"s{number}") for number in range(1000)]
    for each in callers:
        stage.attestor.sees(each.socket, "unix:uid:0")
    stage.authority.start(web(selectors=selectors("unix:uid:0")))
    async with streams(stage, *callers) as subscriptions:
        for stream in subscriptions:
            await until(lambda stream=stream: stream.grants.value.identities, within=60)
        asked = len(stage.authority.batches)
        old = {serials(stream)[0] for stream in subscriptions}
        assert len(old) == 1000
        stage.authority.rotate_intermediate()
        await until(lambda: len(old & {serials(stream)[0] for stream in subscriptions}) == 0, within=60)
    assert len(stage.authority.batches) - asked <= 10
    assert len(stage.requests) == 2000


async def test_why_tells_what_was_seen_what_matches_what_is_held_and_what_is_missing(stage: Stage):
    stage.authority.start(web(), entry("db", selectors=selectors("socket:web", "unix:user:postgres")))
    async with streams(stage, caller()) as [stream]:
        await granted(stream, "/web")
        stream.delivered(Proof(bundle=stage.digest, serials=frozenset(serials(stream))))
        await until(lambda: stage.authority.reports)
        explanation = await stage.workloads.explain(os.getpid())
    assert explanation.caller == f"pid {os.getpid()} (uid 0, gid 0) on socket 'web'"
    assert list(map(str, explanation.selectors)) == ["socket:web"]
    assert explanation.granted == (web(),)
    assert [str(miss.missing[0]) for miss in explanation.near_misses] == ["unix:user:postgres"]
    assert f"serial {serials(stream)[0]:x}" in explanation.holds[0]
    assert "held by 1 of 1 stream" in explanation.holds[0]
    assert explanation.holds[-1] == f"bundle {stage.digest}"
    assert explanation.verdict.endswith("gets spiffe://example.org/web")


async def test_why_tells_what_a_process_would_get_that_never_dialled(stage: Stage):
    stage.authority.start(web(selectors=selectors("unix:uid:0")))
    stage.attestor.sees("", "unix:uid:0")
    explanation = await stage.workloads.explain(os.getpid())
    assert explanation.verdict.endswith("would get spiffe://example.org/web")
    assert "no connection" in explanation.remarks[-1]
    stage.attestor.sees("", "unix:uid:1")
    explanation = await stage.workloads.explain(os.getpid())
    assert explanation.granted == ()
    assert "(entry web) also wants unix:uid:0" in explanation.verdict
