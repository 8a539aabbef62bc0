import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshca.adapters.keys_disk import DiskKeyManager
from meshca.adapters.private_files import private_directory
from meshca.errors import CannotStart, KeyGone, MeshcaError, StoreUnavailable
from meshca.model import KeyType
from tests.support.children import NOBODY, run_unprivileged

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def kept(home: Path, passphrase: bytes | None = None) -> tuple[str, Path]:
    """The id and the file of a new key."""
    key_id, _ = DiskKeyManager(home, passphrase).generate(KeyType.EC_P256)
    return key_id, home / f"{key_id}.pem"


def test_nothing_is_made_before_there_is_a_key(home: Path):
    keys = DiskKeyManager(home)
    assert keys.key_ids() == frozenset()
    with pytest.raises(KeyGone, match=f"there is no directory {home}"):
        keys.load("0" * 40)
    keys.delete("0" * 40)
    keys.set_aside("0" * 40)
    assert not home.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_directory_and_files_are_closed_to_others_whatever_the_umask(home: Path, umask: int):
    before = os.umask(umask)
    try:
        _, file = kept(home)
    finally:
        os.umask(before)

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(home.iterdir()) == [file]


def test_with_a_passphrase_the_file_is_encrypted_pkcs8_that_others_can_read(home: Path):
    _, file = kept(home, b"correct horse")

    assert file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    load_pem_private_key(file.read_bytes(), b"correct horse")


@pytest.mark.parametrize(
    ("written_with", "read_with", "complaint"),
    [
        (b"right", b"wrong", "does not open with this passphrase"),
        (b"right", None, "is encrypted: give its passphrase"),
        (None, b"right", "is not encrypted, but there is a passphrase"),
    ],
)
def test_a_passphrase_that_does_not_fit_stops_the_start_and_the_key_stays(
    home: Path, written_with: bytes | None, read_with: bytes | None, complaint: str
):
    key_id, file = kept(home, written_with)

    with pytest.raises(CannotStart, match=complaint) as refused:
        DiskKeyManager(home, read_with).load(key_id)

    assert str(file) in str(refused.value)
    assert "right" not in str(refused.value)
    DiskKeyManager(home, written_with).load(key_id)


def test_an_empty_passphrase_is_refused(home: Path):
    with pytest.raises(CannotStart, match="is empty"):
        DiskKeyManager(home, b"")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
@pytest.mark.parametrize("call", ["load", "key_ids"])
def test_a_key_file_that_is_open_to_others_is_refused_with_what_to_run(home: Path, mode: int, call: str):
    key_id, file = kept(home)
    file.chmod(mode)

    with pytest.raises(CannotStart) as refused:
        DiskKeyManager(home).load(key_id) if call == "load" else DiskKeyManager(home).key_ids()

    assert str(refused.value).endswith(
        f"uid {os.geteuid()} has mode {mode:04o} and is open to others: chmod 0600 {file}"
    )


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_directory_that_is_open_to_others_is_refused_with_what_to_run(home: Path, mode: int):
    kept(home)
    home.chmod(mode)

    with pytest.raises(CannotStart, match=f"has mode {mode:04o} and is open to others: chmod 0700 {home}"):
        DiskKeyManager(home).generate(KeyType.EC_P256)


@as_root
@pytest.mark.parametrize("given", ["directory", "file"])
def test_a_directory_or_file_of_somebody_else_is_refused_with_what_to_run(home: Path, given: str):
    _, file = kept(home)
    path = home if given == "directory" else file
    os.chown(path, NOBODY, NOBODY)

    with pytest.raises(CannotStart, match=f"{path} belongs to uid {NOBODY} .mode 0.00. .* chown 0 {path}"):
        DiskKeyManager(home).key_ids()


def test_a_symbolic_link_in_place_of_a_key_is_not_followed(home: Path):
    key_id, file = kept(home)
    file.rename(home / "elsewhere")
    file.symlink_to(home / "elsewhere")

    with pytest.raises(CannotStart, match="no regular file"):
        DiskKeyManager(home).key_ids()
    with pytest.raises(StoreUnavailable, match=key_id):
        DiskKeyManager(home).load(key_id)


def test_a_fifo_in_place_of_a_key_does_not_hang(home: Path):
    key_id, file = kept(home)
    file.unlink()
    os.mkfifo(file, 0o600)

    with pytest.raises(CannotStart, match="no regular file"):
        DiskKeyManager(home).load(key_id)


@pytest.mark.parametrize("content", ["another key", "a public key", b"", b"junk", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_file_that_holds_something_else_is_no_key(home: Path, content: str | bytes):
    key_id, file = kept(home)
    if content == "another key":
        content = kept(home)[1].read_bytes()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(KeyGone, match=key_id):
        DiskKeyManager(home).load(key_id)


def test_what_a_kill_left_behind_is_no_key_and_is_swept_away(home: Path):
    kept(home)
    leftover = home / f"{'0' * 40}.pem.tmp"
    leftover.write_bytes(b"-----BEGIN PRIV")

    assert "0" * 40 not in DiskKeyManager(home).key_ids()
    DiskKeyManager(home).generate(KeyType.EC_P256)

    assert not leftover.exists()


def test_other_files_in_the_directory_are_left_alone(home: Path):
    key_id, _ = kept(home)
    (home / "notes.pem").write_text("mine")

    assert DiskKeyManager(home).key_ids() == {key_id}
    assert (home / "notes.pem").exists()


def test_a_missing_parent_is_named(tmp_path: Path):
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/no/keys"):
        DiskKeyManager(tmp_path / "no" / "keys").generate(KeyType.EC_P256)


def test_a_key_that_is_set_aside_can_be_put_back_by_hand(tmp_path: Path):
    keys = DiskKeyManager(tmp_path / "keys")
    key_id, key = keys.generate(KeyType.EC_P256)
    keys.set_aside(key_id)
    kept = tmp_path / "keys" / f"{key_id}.pem.aside"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.rename(kept.with_suffix(""))
    assert keys.load(key_id).public_key() == key.public_key()


READ_ONLY = """
import sys
from pathlib import Path
from meshca.adapters.keys_disk import DiskKeyManager
from meshca.errors import StoreUnavailable
from meshca.model import KeyType

home = Path(sys.argv[1]) / "keys"
keys = DiskKeyManager(home)
key_id, _ = keys.generate(KeyType.EC_P256)
home.chmod(0o500)
for call in (lambda: keys.generate(KeyType.EC_P256), lambda: keys.delete(key_id)):
    try:
        call()
    except StoreUnavailable as error:
        print(error)
assert keys.key_ids() == {key_id} and keys.load(key_id)
"""


def test_a_read_only_directory_is_named_and_its_keys_stay_usable(tmp_path: Path):
    said = run_unprivileged(READ_ONLY, tmp_path).splitlines()

    assert len(said) == 2
    assert all(f"keys in {tmp_path}/keys" in line and "Permission denied" in line for line in said)


FULL = """
import resource, sys
from pathlib import Path
from meshca.adapters.keys_disk import DiskKeyManager
from meshca.errors import StoreUnavailable
from meshca.model import KeyType

home = Path(sys.argv[1]) / "keys"
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    DiskKeyManager(home).generate(KeyType.EC_P256)
except StoreUnavailable as error:
    print(error)
assert list(home.iterdir()) == []
"""


def test_no_part_of_a_key_stays_where_the_disk_is_full(tmp_path: Path):
    assert f"keys in {tmp_path}/keys can not be read or written" in run_unprivileged(FULL, tmp_path)


def test_no_error_in_the_chain_shows_key_or_passphrase(home: Path):
    key_id, file = kept(home, b"battery staple")
    secret = file.read_text()

    error: BaseException | None = None
    try:
        DiskKeyManager(home, b"wrong battery").load(key_id)
    except MeshcaError as raised:
        error = raised
    while error is not None:
        assert not [line for line in secret.splitlines()[1:-1] if line in repr(error)]
        assert "battery" not in repr(error)
        error = error.__cause__


def test_a_data_directory_gets_its_missing_parents_and_all_of_them_are_private(tmp_path: Path):
    with private_directory(tmp_path / "home" / "state" / "meshca", parents=True) as opened:
        assert os.path.samestat(os.fstat(opened), (tmp_path / "home/state/meshca").stat())
    assert [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("home", "home/state")] == [0o700, 0o700]


def test_keys_that_were_moved_away_under_a_running_server_are_not_gone_but_cannot_be_seen(home: Path):
    keys = DiskKeyManager(home)
    key_id, _ = keys.generate(KeyType.EC_P256)
    home.rename(home.with_name("elsewhere"))
    for ask in (keys.key_ids, lambda: keys.load(key_id)):
        with pytest.raises(StoreUnavailable, match="No such file"):
            ask()
    assert not home.exists()
    home.mkdir(mode=0o700)
    for ask in (keys.key_ids, lambda: keys.load(key_id)):
        with pytest.raises(StoreUnavailable, match="another directory than when the server started: put it back"):
            ask()
    home.rmdir()
    home.with_name("elsewhere").rename(home)
    assert keys.key_ids() == {key_id}


def test_the_command_that_is_told_encrypts_all_keys_as_they_are(home: Path, tmp_path: Path):
    (one, file), (other, _) = kept(home), kept(home)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("right\n")
    with pytest.raises(CannotStart) as refused:
        DiskKeyManager(home, b"right").load(one)
    command = str(refused.value).partition("all of them: ")[2].replace("PASSPHRASE_FILE", str(passphrase))
    subprocess.run(["sh", "-c", command], check=True)

    manager = DiskKeyManager(home, b"right")
    assert manager.key_ids() == {one, other}
    assert all(manager.load(key_id) for key_id in (one, other))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_directory_that_others_use_too_is_not_to_be_closed_to_them(tmp_path: Path):
    sticky, shared = tmp_path / "sticky", tmp_path / "shared"
    sticky.mkdir()
    sticky.chmod(0o1777)
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "letters.txt").touch()
    for path in (sticky, shared):
        with pytest.raises(CannotStart) as refused, private_directory(path):
            pass
        assert str(refused.value).endswith(f"use a directory of its own, such as {path}/meshca")
        assert "chmod" not in str(refused.value)
