"""The directory of configuration: its files as texts, and word of each change.

Rules:
- All files are read at each change, so that a change of several is seen whole or seen again. Names, times and sizes are looked at twenty
  times a second: that misses nothing on any file system, nor where a directory is swapped by a symbolic link, and costs less than a push.
- Hidden files and editors' leftovers are no configuration. What can not be read is a problem of that file, not of the others.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from meshca.router.objects import Problem

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MOST_BYTES = 16 * 1024 * 1024
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the directory holds: texts by file name, and what could not be read."""

    texts: dict[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


async def watch(directory: Path) -> AsyncIterator[Files]:
    """Yield what is there, at once and after each change, for ever. A directory that is not there is a problem, not an end."""
    seen: object = None
    while True:
        if (found := await asyncio.to_thread(_fingerprint, directory)) != seen:
            seen = found
            yield await asyncio.to_thread(read, directory)
        await asyncio.sleep(LOOK_SECONDS)


def read(directory: Path) -> Files:
    """All configuration files, in the order of their names."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    try:
        paths = _files(directory)
    except OSError as error:
        return Files(problems=(_problem(str(directory), error),))
    for path in paths:
        try:
            texts[path.name] = _text(path)
        except (OSError, ValueError) as error:
            problems.append(_problem(path.name, error))
    return Files(texts=texts, problems=tuple(problems))


def _files(directory: Path) -> list[Path]:
    found = (path for path in directory.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    return sorted(found)


def _text(path: Path) -> str:
    """Raises OSError, and ValueError for a file that nobody wrote by hand."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return content.decode()


def _problem(file: str, error: Exception) -> Problem:
    return Problem(file=file, line=1, label="", field="", text=f"can not be read: {error}")


def _fingerprint(directory: Path) -> object:
    """Differs when anything was written, added, removed or exchanged."""
    try:
        return [(path.name, _identity(path)) for path in _files(directory)]
    except OSError as error:
        return str(error)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 - one call for all that is asked
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
