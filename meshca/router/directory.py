"""The directory of configuration: its files as texts, and word of each change.

Rules:
- All files are read at each change, so that a change of several is seen whole or seen again. Names, times and sizes are looked at twenty
  times a second, or less often where that would take more than a tenth of the time: that misses nothing on any file system, nor where a
  directory is swapped by a symbolic link.
- Hidden files and editors' leftovers are no configuration. What can not be read is a problem of that file, not of the others.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from meshca.errors import InvalidInput, NotFound
from meshca.router.mesh.objects import Problem

SUFFIXES = (".yaml", ".yml", ".json")
MOST_BYTES = 16 * 1024 * 1024
LOOK_SECONDS = 0.05
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
    seen: object = None
    while True:
        found, spent = await asyncio.to_thread(_look, directory)
        if found != seen:
            seen = found
            yield await asyncio.to_thread(read, directory)
        await asyncio.sleep(pause_after(spent))


def pause_after(spent: float) -> float:
    """Seconds until the next look after one that took so many of CPU time."""
    return max(LOOK_SECONDS, spent * _REST)


def read(directory: Path) -> Files:
    """All configuration files, in the order of their names."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    try:
        paths = _files(directory)
    except OSError as error:
        return Files(problems=(_problem(str(directory), error, line=0),))
    for path in paths:
        try:
            texts[path.name] = _text(path)
        except (OSError, ValueError) as error:
            problems.append(_problem(path.name, error))
    return Files(texts=texts, problems=tuple(problems))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if _is_configuration(path.name))


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


def _look(directory: Path) -> tuple[object, float]:
    """The fingerprint, and how many seconds of CPU time it took: not how long a busy process had to wait for them."""
    started = time.thread_time()
    return _fingerprint(directory), time.thread_time() - started


def _fingerprint(directory: Path) -> object:
    """Differs when anything was written, added, removed or exchanged."""
    try:
        with os.scandir(directory) as entries:
            return sorted((entry.name, _identity(entry)) for entry in entries if _is_configuration(entry.name))
    except OSError as error:
        return str(error)


def _is_configuration(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _identity(entry: "os.DirEntry[str]") -> tuple[int, ...]:
    try:
        status = entry.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
