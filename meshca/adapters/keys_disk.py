"""Authority keys as files: one PKCS#8 PEM for each, encrypted if there is a passphrase, in a directory that is ours alone.

Rules:
- A key that was returned is on the disk; a file is there whole or not at all.
- The directory is the one that was first opened: where it was moved away or unmounted, the keys are not gone, but cannot be seen.
- A wrong passphrase stops the start: a key that we can not open is not gone, and its authority must not be dropped.
- No repr shows a key or the passphrase, and the object can not be pickled.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshca.adapters.keys import key_id as id_of
from meshca.adapters.keys import new_key
from meshca.adapters.private_files import check_private_file, private_directory, read_private, write_private
from meshca.errors import CannotStart, KeyGone, StoreUnavailable
from meshca.model import AuthorityKey, KeyType

_KEY_ID = re.compile(r"[0-9a-f]{40}")
_ENCRYPTED = b"ENCRYPTED"  # stands in the header of PKCS#8 and of the older form that openssl may have written


class DiskKeyManager:
    """The KeyManager port over a directory, which the first key makes: without it there are no keys. Thread-safe; one process at a time.

    Besides what the port says, every method raises CannotStart when the directory or a file of it is not ours alone, and
    StoreUnavailable when the disk fails; `load` raises CannotStart when the passphrase does not open the key.
    """

    def __init__(self, directory: Path, passphrase: bytes | None = None) -> None:
        if passphrase == b"":
            raise CannotStart(f"the passphrase of the keys in {directory} is empty")
        self._path = directory
        self._passphrase = passphrase
        self._one_at_a_time = threading.Lock()
        self._opened: tuple[int, int] | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key manager can not be pickled or copied: it leads to private keys")

    def generate(self, key_type: KeyType) -> tuple[str, AuthorityKey]:
        """See the port."""
        key = new_key(key_type)
        made = id_of(key)
        with self._directory(make=True) as directory:
            _sweep(directory)
            write_private(directory, f"{made}.pem", self._encoded(key))
        return made, key

    def load(self, key_id: str) -> AuthorityKey:
        """See the port."""
        if not _KEY_ID.fullmatch(key_id):
            raise KeyGone(f"{key_id[:80]!r} is no key id: 40 hex digits")
        path = self._path / f"{key_id}.pem"
        with self._directory() as directory:
            try:
                document = read_private(directory, path.name, path)
            except FileNotFoundError as error:
                raise KeyGone(f"there is no key file {path}") from error
        return self._decoded(document, key_id, path)

    def delete(self, key_id: str) -> None:
        """See the port."""
        with suppress(KeyGone), self._directory() as directory:
            if key_id in _kept(directory):
                os.unlink(f"{key_id}.pem", dir_fd=directory)
                os.fsync(directory)

    def set_aside(self, key_id: str) -> None:
        """See the port. The file stays where it is, with `.aside` behind its name."""
        with suppress(KeyGone), self._directory() as directory:
            if key_id in _kept(directory):
                os.rename(f"{key_id}.pem", f"{key_id}.pem.aside", src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

    def key_ids(self) -> frozenset[str]:
        """See the port. Checks the owner and mode of every key file: what a start does first."""
        kept: frozenset[str] = frozenset()
        with suppress(KeyGone), self._directory() as directory:
            kept = _kept(directory)
            for name in (f"{key_id}.pem" for key_id in kept):
                check_private_file(os.stat(name, dir_fd=directory, follow_symlinks=False), self._path / name)
        return kept

    @contextmanager
    def _directory(self, *, make: bool = False) -> Iterator[int]:
        """The opened directory. Raises KeyGone where there has never been one, unless it is to be made now."""
        try:
            with self._one_at_a_time, private_directory(self._path, make=make and self._opened is None) as opened:
                self._check_same(os.fstat(opened))
                yield opened
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._opened is None and not make:
                raise KeyGone(f"there is no directory {self._path}") from error
            raise StoreUnavailable(f"keys in {self._path} can not be read or written: {error}") from error

    def _check_same(self, status: os.stat_result) -> None:
        found = status.st_dev, status.st_ino
        self._opened = self._opened or found
        if found != self._opened:
            raise StoreUnavailable(
                f"{self._path} is another directory than when the server started: put it back, or restart"
            )

    def _encoded(self, key: AuthorityKey) -> bytes:
        encryption = BestAvailableEncryption(self._passphrase) if self._passphrase else NoEncryption()
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def _decoded(self, document: bytes, key_id: str, path: Path) -> AuthorityKey:
        encrypted = _ENCRYPTED in document
        if encrypted and not self._passphrase:
            raise CannotStart(f"key file {path} is encrypted: give its passphrase")
        if self._passphrase and not encrypted:
            raise CannotStart(
                f"key file {path} is not encrypted, but there is a passphrase. This encrypts all of them: "
                f"for KEY in {path.parent}/*.pem; do openssl pkcs8 -topk8 -v2 aes-256-cbc -in $KEY -out $KEY.new "
                "-passout file:PASSPHRASE_FILE && mv $KEY.new $KEY; done"
            )
        try:
            key = load_pem_private_key(document, self._passphrase)
        except (ValueError, UnsupportedAlgorithm) as error:
            if encrypted:
                raise CannotStart(f"key file {path} does not open with this passphrase") from error
            raise KeyGone(f"key file {path} holds no private key: {error}") from error
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) or id_of(key) != key_id:
            raise KeyGone(f"key file {path} holds another key than {key_id}")
        return key


def _kept(directory: int) -> frozenset[str]:
    """The ids that the names of files in the directory say."""
    names = (name.removesuffix(".pem") for name in os.listdir(directory) if name.endswith(".pem"))
    return frozenset(name for name in names if _KEY_ID.fullmatch(name))


def _sweep(directory: int) -> None:
    """Remove what a kill in the middle of a write left behind: nobody may find half a key later."""
    for name in os.listdir(directory):
        if name.endswith(".pem.tmp"):
            os.unlink(name, dir_fd=directory)
