"""The directory of configuration: its files as texts, and word of each change.

Rules:
- Names, times and sizes are looked at twenty times a second, or less often where that would take more than a tenth of the time: on any
  file system, and where a directory is swapped by a symbolic link. A change of several files is seen whole or seen again.
- A file that is the same by all of these keeps its text. One that was written within the two seconds before it was read is read again: it
  can be written once more without a trace, since file systems count time in steps, of two seconds at most.
- Hidden files and editors' leftovers are no configuration. What can not be read is a problem of that file, not of the others.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from meshca.errors import InvalidInput, NotFound
from meshca.router.mesh.objects import Problem

SUFFIXES = (".yaml", ".yml", ".json")
MOST_BYTES = 16 * 1024 * 1024
LOOK_SECONDS = 0.05
SETTLED_SECONDS = 2.0
"""How long ago a file must have changed for another change to show."""
_REST = 10
"""How many times as long as a look takes there is none, however many files there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the directory holds: texts by file name, and what could not be read."""

    texts: dict[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def check_directory(directory: Path) -> None:
    """Find out whether there is a directory to begin with. Raises NotFound, InvalidInput for a file, OSError for one that is not ours."""
    try:
        os.scandir(directory).close()
    except FileNotFoundError as error:
        raise NotFound(f"{directory}: there is no such directory") from error
    except NotADirectoryError as error:
        raise InvalidInput(f"{directory}: is a file: name the directory that it is in") from error


async def watch(directory: Path) -> AsyncIterator[Files]:
    """Yield what is there, at once and after each change, for ever. A directory that is there no more is a problem, not an end."""
    reader, seen = Directory(directory), None
    while True:
        found, spent = await asyncio.to_thread(_look, reader)
        if found != seen:
            seen = found
            yield found
        await asyncio.sleep(pause_after(spent))


def pause_after(spent: float) -> float:
    """Seconds until the next look after one that took so many of CPU time."""
    return max(LOOK_SECONDS, spent * _REST)


def _look(reader: "Directory") -> tuple[Files, float]:
    """What is there, and how many seconds of CPU time it took: not how long a busy process had to wait for them."""
    started = time.thread_time()
    return reader.read(time.time()), time.thread_time() - started


def read(directory: Path) -> Files:
    """What is there now."""
    return Directory(directory).read(time.time())


class _Known(NamedTuple):
    """What was read of a file. It `stays` for as long as the status is the same: place, size and times."""

    status: tuple[int, ...]
    content: str | Problem
    stays: bool


class Directory:
    """A directory that is read again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, _Known] = {}

    def read(self, now: float) -> Files:
        """All configuration files, in the order of their names. `now` is in seconds since 1970, as the times of files are."""
        try:
            with os.scandir(self._path) as entries:
                found = sorted((each for each in entries if _is_configuration(each.name)), key=attrgetter("name"))
        except OSError as error:
            return Files(problems=(_problem(str(self._path), error, line=0),))
        self._known = {each.name: self._file(each, now) for each in found}
        contents = [(name, known.content) for name, known in self._known.items()]
        return Files(
            texts={name: content for name, content in contents if isinstance(content, str)},
            problems=tuple(content for _, content in contents if isinstance(content, Problem)),
        )

    def _file(self, entry: "os.DirEntry[str]", now: float) -> _Known:
        """What is in a file. One that the system does not let us read is asked for again each time."""
        known = self._known.get(entry.name)
        try:
            status = entry.stat()
            identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            if known and known.stays and known.status == identity:
                return known
            return _Known(identity, _content(Path(entry.path)), now - status.st_ctime > SETTLED_SECONDS)
        except OSError as error:
            return _Known((), _problem(entry.name, error), stays=False)


def _content(path: Path) -> str | Problem:
    """The text, or that it is none. Raises OSError."""
    try:
        return _text(path)
    except ValueError as error:
        return _problem(path.name, error)


def _text(path: Path) -> str:
    """Raises OSError, and ValueError for a file that nobody wrote by hand."""
    if path.is_fifo():  # nobody may ever write to it, and no change would be read any more
        raise ValueError("it is a pipe, and no regular file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return content.decode()


def _problem(file: str, error: Exception, line: int = 1) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return Problem(file=file, line=line, label="", field="", text=f"can not be read: {reason}")


def _is_configuration(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")
