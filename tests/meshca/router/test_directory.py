import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

from meshca.router import directory
from meshca.router.directory import Files, read, watch


def test_configuration_is_what_ends_in_yaml_or_json_and_is_not_hidden(tmp_path: Path):
    for name in ("b.yaml", "a.yml", "c.json", ".hidden.yaml", "note.txt", "b.yaml~"):
        (tmp_path / name).write_text(name)
    assert list(read(tmp_path).texts.items()) == [("a.yml", "a.yml"), ("b.yaml", "b.yaml"), ("c.json", "c.json")]


def test_what_can_not_be_read_is_a_problem_of_that_file_only(tmp_path: Path):
    (tmp_path / "good.yaml").write_text("good")
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "large.yaml").open("wb") as large:
        large.truncate(directory.MOST_BYTES + 1)
    found = read(tmp_path)
    assert found.texts == {"good.yaml": "good"}
    said = [str(problem) for problem in found.problems]
    assert [each.split(":")[0] for each in said] == ["folder.yaml", "large.yaml", "latin.yaml"]
    assert "limit" in said[1] or "more than" in said[1]


def test_a_directory_that_is_not_there_is_a_problem(tmp_path: Path):
    found = read(tmp_path / "none")
    assert found.texts == {}
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path}/none: can not be read: No such file or directory"
    ]


async def test_each_change_is_told_and_nothing_else_is(tmp_path: Path):
    config = tmp_path / "config"
    async with aclosing(cast("AsyncIterator[Files]", watch(config))) as changes:  # type: ignore[type-var]
        assert (await anext(changes)).problems
        config.mkdir()
        assert await anext(changes) == Files()
        (config / "a.yaml").write_text("1")
        assert (await anext(changes)).texts == {"a.yaml": "1"}
        (config / "note.txt").write_text("not configuration")
        waiting = asyncio.ensure_future(anext(changes))
        other = tmp_path / "other"
        other.mkdir()
        (other / "b.yaml").write_text("2")
        (other / "dangling.yaml").symlink_to(tmp_path / "none")
        config.rename(tmp_path / "old")
        config.symlink_to(other)
        assert (await waiting).texts == {"b.yaml": "2"}


def test_a_pipe_is_a_problem_and_holds_up_nothing(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "mesh.yaml").write_text("a: 1")
    files = read(tmp_path)
    assert files.texts == {"mesh.yaml": "a: 1"}
    assert ["regular file" in problem.text for problem in files.problems] == [True]


def test_looking_takes_no_more_than_a_tenth_of_the_time_however_many_files_there_are():
    assert directory.pause_after(0) == directory.LOOK_SECONDS
    assert directory.pause_after(1) == 10


def test_a_file_that_is_the_same_is_not_read_again_and_one_that_is_not_is(tmp_path: Path):
    paths = [tmp_path / f"{name}.yaml" for name in ("same", "rewritten", "replaced", "gone")]
    for path in paths:
        path.write_text("before")
    later, reader = time.time() + 2 * directory.SETTLED_SECONDS, directory.Directory(tmp_path)
    before = reader.read(later)
    same, rewritten, replaced, gone = paths
    times = [(status.st_atime_ns, status.st_mtime_ns) for status in map(Path.stat, paths)]
    rewritten.write_text("after.")
    gone.unlink()
    (tmp_path / "new").write_text("after.")
    (tmp_path / "new").rename(replaced)
    for path, each in zip((rewritten, replaced), times[1:3], strict=True):
        os.utime(path, ns=each)
    after = reader.read(later)
    assert after.texts == {"replaced.yaml": "after.", "rewritten.yaml": "after.", "same.yaml": "before"}
    assert after.texts[same.name] is before.texts[same.name]


def test_a_file_that_was_just_written_is_read_again_since_it_may_change_without_a_trace(tmp_path: Path):
    (tmp_path / "young.yaml").write_text("before")
    reader = directory.Directory(tmp_path)
    first, second = reader.read(time.time()), reader.read(time.time())
    assert second == first
    assert second.texts["young.yaml"] is not first.texts["young.yaml"]


def test_a_file_that_the_system_refused_is_asked_for_again_and_one_that_is_no_text_is_not(tmp_path: Path):
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "target")
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    later, reader = time.time() + 2 * directory.SETTLED_SECONDS, directory.Directory(tmp_path)
    first = reader.read(later)
    (tmp_path / "target").write_text("there")
    second = reader.read(later)
    assert second.texts == {"dangling.yaml": "there"}
    assert second.problems[0] is first.problems[1]
