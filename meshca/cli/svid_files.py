"""SVIDs as files, for programs that read files: written as a set, so that no reader ever finds a key beside another's certificate.

Rules:
- Names are those of `spire-agent api fetch -write`: `svid.0.pem` (chain, leaf first), `svid.0.key` (PKCS#8),
  `bundle.0.pem`; the default SVID is 0.
- Each set is a directory of its own; the names are links through `..data`, and swapping that one link swaps the set.
  The set before it is kept for readers who are just at it. A reader who wants a whole set resolves `..data` once.
- Files are 0600 and directories 0700, from their first byte on. What is not ours in the directory stays untouched.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshca.errors import CannotStart
from spiffe.bundle import BundleSet
from spiffe.x509svid import X509SVID

_CURRENT = "..data"
_SET = "..set-"
_KEPT = 2


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
    """Make the directory show exactly this set, all at once. Raises OSError, CannotStart when a name is taken by a directory of others."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_free(directory, files)
    fresh = _SET + secrets.token_hex(8)
    _write_all(directory / fresh, files)
    _link(directory, _CURRENT, fresh)
    for name in files:
        if not _is_ours(directory / name):
            _link(directory, name, f"{_CURRENT}/{name}")
    _sweep(directory, files, fresh)


def _check_free(directory: Path, files: Mapping[str, bytes]) -> None:
    taken = [name for name in (*files, _CURRENT) if (directory / name).is_dir() and not (directory / name).is_symlink()]
    if taken:
        raise CannotStart(f"{directory / taken[0]} is a directory: name another place for the SVIDs")


def _write_all(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(mode=0o700)
    for name, content in files.items():
        with open(directory / name, "xb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _link(directory: Path, name: str, target: str) -> None:
    """Make `name` a link to `target`, in place of whatever file or link it was."""
    fresh = directory / f"..link-{secrets.token_hex(8)}"
    fresh.symlink_to(target)
    fresh.replace(directory / name)


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and path.readlink() == Path(_CURRENT, path.name)


def _sweep(directory: Path, files: Mapping[str, bytes], fresh: str) -> None:
    """Take away links of SVIDs that are no more, and sets that nobody reads any longer."""
    for path in directory.iterdir():
        if _is_ours(path) and path.name not in files:
            path.unlink()
    sets = [path for path in directory.glob(f"{_SET}*") if path.name != fresh]
    for path in sorted(sets, key=lambda each: each.stat().st_mtime_ns, reverse=True)[_KEPT - 1 :]:
        shutil.rmtree(path)
