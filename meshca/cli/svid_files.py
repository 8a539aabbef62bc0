"""SVIDs as files, for programs that read files: written as a set, so that no reader ever finds a key beside another's certificate.

Rules:
- Names are those of `spire-agent api fetch -write`: `svid.0.pem` (chain, leaf first), `svid.0.key` (PKCS#8),
  `bundle.0.pem`; the default SVID is 0.
- Each set is a directory of its own; the names are links through `..data`, and swapping that one link swaps the set.
  The set before it is kept for readers who are just at it. A reader who wants a whole set resolves `..data` once.
- Files are 0600 and directories 0700, from their first byte on. What is not ours in the directory stays untouched.
- The directory is ours, and others can not write to it; names in it are resolved against the opened directory.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshca.errors import CannotStart
from spiffe.bundle import BundleSet
from spiffe.x509svid import X509SVID

_CURRENT = "..data"
_SET = "..set-"
_KEPT = 2
_WRITE_OF_OTHERS = 0o022
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_set(svids: Sequence[X509SVID], bundles: BundleSet) -> dict[str, bytes]:
    """The files of these SVIDs, each with the bundle of its own trust domain. Names to contents."""
    files = {}
    for index, svid in enumerate(svids):
        files[f"svid.{index}.pem"] = svid.chain_pem()
        files[f"svid.{index}.key"] = svid.key_pem()
        bundle = bundles.get(svid.spiffe_id.trust_domain)
        if bundle:
            files[f"bundle.{index}.pem"] = bundle.to_pem()
    return files


def write_set(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory show exactly this set, all at once. Raises OSError, CannotStart when it, or a name in it, is not for us alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(directory) as place:
        _check_ours(os.fstat(place), directory)
        _check_free(place, directory, files)
        fresh = _SET + secrets.token_hex(8)
        _write_all(place, fresh, files)
        _link(place, _CURRENT, fresh)
        for name in files:
            if not _is_ours(place, name):
                _link(place, name, f"{_CURRENT}/{name}")
        _sweep(place, files, fresh)


@contextmanager
def _opened(path: str | Path, place: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if place is not None else 0)
    opened = os.open(path, flags, dir_fd=place)
    try:
        yield opened
    finally:
        os.close(opened)


def _check_ours(status: os.stat_result, path: Path) -> None:
    mode, ours = stat.S_IMODE(status.st_mode), os.geteuid()
    if status.st_uid != ours:
        raise CannotStart(
            f"{path} belongs to uid {status.st_uid}, who could swap the SVIDs in it: name one of uid {ours}"
        )
    if mode & _WRITE_OF_OTHERS:
        raise CannotStart(f"{path} has mode {mode:04o}, and others could swap the SVIDs in it: chmod go-w {path}")


def _check_free(place: int, directory: Path, files: Mapping[str, bytes]) -> None:
    with os.scandir(place) as found:
        directories = {each.name for each in found if each.is_dir(follow_symlinks=False)}
    taken = [name for name in (*files, _CURRENT) if name in directories]
    if taken:
        raise CannotStart(f"{directory / taken[0]} is a directory: name another place for the SVIDs")


def _write_all(place: int, fresh: str, files: Mapping[str, bytes]) -> None:
    os.mkdir(fresh, 0o700, dir_fd=place)
    with _opened(fresh, place) as made:
        for name, content in files.items():
            with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=made), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def _link(place: int, name: str, target: str) -> None:
    """Make `name` a link to `target`, in place of whatever file or link it was."""
    fresh = f"..link-{secrets.token_hex(8)}"
    os.symlink(target, fresh, dir_fd=place)
    os.replace(fresh, name, src_dir_fd=place, dst_dir_fd=place)


def _is_ours(place: int, name: str) -> bool:
    try:
        return os.readlink(name, dir_fd=place) == f"{_CURRENT}/{name}"
    except OSError:  # it is not there, or no link
        return False


def _sweep(place: int, files: Mapping[str, bytes], fresh: str) -> None:
    """Take away links of SVIDs that are no more, and sets that nobody reads any longer."""
    with os.scandir(place) as found:
        entries = list(found)
    for each in entries:
        if each.name not in files and _is_ours(place, each.name):
            os.unlink(each.name, dir_fd=place)
    sets = [each for each in entries if each.name.startswith(_SET) and each.is_dir(follow_symlinks=False)]
    old = sorted((each for each in sets if each.name != fresh), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    for each in old[_KEPT - 1 :]:
        shutil.rmtree(each.name, dir_fd=place)
