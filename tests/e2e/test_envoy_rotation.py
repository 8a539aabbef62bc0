"""Leaf, intermediate and root are replaced under load on real Envoys, and not one request fails."""

import asyncio
import os
from pathlib import Path

import pytest

from meshca.client import connect
from meshca.proto import admin_pb2 as pb
from tests.support.mesh import BACKEND, FRONTEND, Mesh, running_mesh
from tests.support.wait import until

pytestmark = pytest.mark.envoy
ROOT_ROTATIONS = int(os.environ.get("MESHCA_TEST_ROOT_ROTATIONS", "200"))
DOWN_SECONDS = float(os.environ.get("MESHCA_TEST_DOWN_SECONDS", "30"))


def whole(mesh: Mesh) -> None:
    assert dict(mesh.load.failures) == {}
    assert mesh.load.requests > 0
    assert mesh.load.peers == {str(FRONTEND), str(BACKEND)}


@pytest.mark.parametrize("delta", [False, True], ids=["state-of-the-world", "delta"])
async def test_both_envoys_get_their_svids_and_every_kind_of_authority_rotates_without_a_failed_request(
    tmp_path: Path, *, delta: bool
):
    async with running_mesh(tmp_path, delta=delta) as mesh:
        before = await mesh.in_use()
        assert [each.spiffe_id for each in before] == [str(FRONTEND), str(BACKEND)]
        async with mesh.under_load():
            steps = [progress.step for progress in await mesh.rotate("intermediate")]
            assert steps[-1] == "done"
            middle = await mesh.in_use()
            steps = [progress.step for progress in await mesh.rotate("root")]
            assert steps[-1] == "done"
        after = await mesh.in_use()
        whole(mesh)
        for was, then, now in zip(before, middle, after, strict=True):
            assert len({was.serial, then.serial, now.serial}) == 3
            assert len({was.intermediate, then.intermediate, now.intermediate}) == 3
            assert was.roots == then.roots
            assert not now.roots & was.roots


async def test_leaves_renew_at_half_their_life_under_load(tmp_path: Path):
    async with running_mesh(tmp_path, leaf_seconds=10) as mesh, mesh.under_load():
        serials: set[str] = set()

        async def renewed() -> bool:
            serials.update(each.serial for each in await mesh.in_use())
            return len(serials) >= 6

        await until(renewed, within=60)
    whole(mesh)


@pytest.mark.slow
async def test_two_hundred_root_rotations_under_load_fail_no_request(tmp_path: Path):
    async with running_mesh(tmp_path) as mesh:
        first = await mesh.in_use()
        async with mesh.under_load():
            for _ in range(ROOT_ROTATIONS):
                assert (await mesh.rotate("root"))[-1].step == "done"
        last = await mesh.in_use()
        whole(mesh)
        assert not first[0].roots & last[0].roots
        async with connect(mesh.server.admin_socket) as client:
            query = pb.FindRequest(kind="authority", limit=10_000)
            changes = (await client.audit.Find(query)).records
            assert len(changes) >= ROOT_ROTATIONS
            await client.audit.Verify(pb.VerifyAuditRequest())


@pytest.mark.slow
async def test_a_server_killed_between_widening_and_activation_goes_on_where_it_was_and_fails_no_request(
    tmp_path: Path,
):
    async with running_mesh(tmp_path) as mesh, mesh.under_load():
        before = await mesh.in_use()
        async with connect(mesh.server.admin_socket) as client:
            prepared = await client.authorities.Prepare(pb.KindRequest(kind="root"))

        async def widened() -> bool:
            return all(prepared.id in each.roots for each in await mesh.in_use())

        await until(widened)
        await mesh.server.kill()
        await asyncio.sleep(DOWN_SECONDS)  # the outage is the subject here: the load goes on through it
        await mesh.server.start()
        assert [each.state for each in await mesh.authorities("root")] == ["active", "prepared"]
        assert (await mesh.rotate("root"))[-1].step == "done"
        after = await mesh.in_use()
        assert [each.roots for each in after] == [{prepared.id}] * 2
        assert all(was.serial != now.serial for was, now in zip(before, after, strict=True))
    whole(mesh)


async def test_a_server_killed_and_restarted_again_and_again_under_load_fails_no_request(tmp_path: Path):
    async with running_mesh(tmp_path, leaf_seconds=10) as mesh, mesh.under_load():
        for _ in range(5):
            await mesh.server.kill()
            await mesh.more_answers(50)
            await mesh.server.start()
            assert (await mesh.rotate("root"))[-1].step == "done"
    whole(mesh)
