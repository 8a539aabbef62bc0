import stat
from dataclasses import replace
from pathlib import Path

import pytest

from meshca.errors import InvalidInput, StoreConflict
from meshca.router.canary.ramp_store import RampDirectory
from meshca.router.directory import read
from tests.support.ramps import ROUTE, annotated, canary
from tests.support.routing import origin

WHERE = origin("VirtualService", "api-server", file="canary.yaml")
BEFORE = replace(canary(0), progress=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "canary.yaml"
    path.write_text(ROUTE)
    path.chmod(0o640)
    return path


def test_a_change_replaces_the_file_as_a_whole_and_leaves_nothing_beside_it(path: Path):
    before = path.stat()
    RampDirectory(path.parent).write(WHERE, BEFORE, canary(5))
    assert "weight: 95   # the old one" in path.read_text()
    after = path.stat()
    assert before.st_ino != after.st_ino
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_of_two_who_decide_on_the_same_state_only_one_steps(path: Path):
    one, other = RampDirectory(path.parent), RampDirectory(path.parent)
    one.write(WHERE, BEFORE, canary(5))
    one.write(WHERE, canary(5), canary(10))
    written = path.read_text()
    with pytest.raises(StoreConflict, match=r"canary\.yaml: VirtualService default/api-server is not what it was"):
        other.write(WHERE, canary(5), canary(10))
    assert path.read_text() == written


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(path: Path):
    store = RampDirectory(path.parent)
    store.write(WHERE, BEFORE, canary(5))
    path.write_text(path.read_text().replace("weight: 95", "weight: 0").replace("weight: 5\n", "weight: 100\n"))
    with pytest.raises(StoreConflict):
        store.write(WHERE, canary(5), canary(10))
    path.write_text("")
    with pytest.raises(StoreConflict):
        store.write(WHERE, canary(5), canary(10))
    path.write_text(ROUTE.replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10"))
    with pytest.raises(StoreConflict):
        store.write(WHERE, BEFORE, canary(0))


def test_a_refused_change_leaves_the_file_as_it_was(path: Path):
    path.write_text(annotated("to=v2 step=5 every=1m max-5xx=1%").replace("      weight: 0\n", ""))
    before = path.read_text()
    with pytest.raises(InvalidInput):
        RampDirectory(path.parent).write(WHERE, BEFORE, canary(5))
    assert path.read_text() == before


def test_a_link_stays_a_link(path: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    target = path.rename(tmp_path / "there" / "real")
    path.symlink_to(target)
    RampDirectory(tmp_path).write(WHERE, BEFORE, canary(5))
    assert path.is_symlink()
    assert "weight: 95" in read(tmp_path).texts["canary.yaml"]


def test_a_directory_that_can_not_be_written_is_told_before_there_is_anything_to_write(path: Path):
    store = RampDirectory(path.parent)
    assert store.obstacle(WHERE) == ""
    assert "gone can not be written" in store.obstacle(WHERE._replace(file="gone/canary.yaml"))


def test_what_can_not_be_written_is_told_in_the_same_words_each_time(path: Path):
    """Else each of ten looks a second would be one more line in the log."""
    where = WHERE._replace(file=f"{'c' * 245}.yaml")  # that of a file beside it, to be put in its place, is too long
    path.rename(path.with_name(where.file))
    said = set()
    for _ in range(2):
        with pytest.raises(OSError, match="name too long") as failed:
            RampDirectory(path.parent).write(where, BEFORE, canary(5))
        said.add(str(failed.value))
    (only,) = said
    assert where.file in only
