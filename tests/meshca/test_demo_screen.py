import pytest

from meshca.clock import SystemClock
from meshca.demo import view
from meshca.demo.app import screen
from meshca.demo.observe import Changes, InUse
from meshca.proto import admin_pb2 as pb

ROOTS = frozenset(each * 40 for each in "abc")
SEEN = InUse(spiffe_id="spiffe://mesh.local/frontend", serial="f" * 40, not_after=SystemClock().now(), roots=ROOTS)


def test_what_goes_to_no_terminal_shows_spiffe_ids_whole(capsys: pytest.CaptureFixture[str]):
    changes = Changes()
    changes.see(SEEN)
    screen(as_json=False).print(
        view.live(
            now=SystemClock().now(),
            envoys=[("frontend", changes)],
            authorities=pb.AuthorityList(),
            traffic={},
            rules=[],
            step="",
        )
    )
    assert SEEN.spiffe_id in capsys.readouterr().out
