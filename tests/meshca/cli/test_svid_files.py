import os
import stat
import threading
from pathlib import Path

import pytest

from meshca.cli.svid_files import file_set, write_set
from meshca.errors import CannotStart
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID
from tests.support.pki import CA

ROOT = CA.create("mesh.local")


def svid(path: str = "/web") -> X509SVID:
    issued = ROOT.intermediate().leaf(uris=[f"spiffe://mesh.local{path}"])
    return X509SVID.from_pem(issued.chain_pem, issued.key_pem)


BUNDLES = BundleSet([Bundle.from_pem(TrustDomain("mesh.local"), ROOT.pem)])


def test_a_set_is_read_back_and_nobody_else_can_read_it(tmp_path: Path):
    directory = tmp_path / "new" / "svids"
    written = svid()
    os.umask(0o000)
    write_set(directory, file_set([written], BUNDLES))
    os.umask(0o022)
    read = X509SVID.from_pem((directory / "svid.0.pem").read_bytes(), (directory / "svid.0.key").read_bytes())
    assert read == written
    assert (directory / "bundle.0.pem").read_bytes() == ROOT.pem
    for path in (directory, *directory.resolve().rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_reader_of_the_current_set_never_finds_a_key_beside_another_certificate(tmp_path: Path):
    write_set(tmp_path, file_set([svid()], BUNDLES))
    sets = [file_set([svid()], BUNDLES) for _ in range(20)]
    writer = threading.Thread(target=lambda: [write_set(tmp_path, each) for each in sets])
    writer.start()
    reads = 0
    while writer.is_alive() or not reads:
        current = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = ("svid.0.pem", "svid.0.key")
            chain, key = (Path(f"/proc/self/fd/{current}/{name}").read_bytes() for name in names)
        except FileNotFoundError:
            continue  # two sets later: resolved too long ago, and told so rather than given a mixture
        finally:
            os.close(current)
        X509SVID.from_pem(chain, key)
        reads += 1
    writer.join()


def test_a_smaller_set_leaves_nothing_of_the_larger_one_and_nothing_of_others_is_touched(tmp_path: Path):
    (tmp_path / "svid.0.pem").write_text("an older file of somebody's script")
    (tmp_path / "notes.txt").write_text("mine")
    write_set(tmp_path, file_set([svid("/a"), svid("/b")], BUNDLES))
    for _ in range(3):
        write_set(tmp_path, file_set([svid("/a")], BUNDLES))
    visible = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".."))
    assert visible == ["bundle.0.pem", "notes.txt", "svid.0.key", "svid.0.pem"]
    assert len(list(tmp_path.glob("..set-*"))) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_name_that_is_a_directory_is_refused_before_anything_is_written(tmp_path: Path):
    (tmp_path / "svid.0.key").mkdir()
    with pytest.raises(CannotStart, match=r"svid\.0\.key is a directory"):
        write_set(tmp_path, file_set([svid()], BUNDLES))
    assert [path.name for path in tmp_path.iterdir()] == ["svid.0.key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(CannotStart, match=r"theirs belongs to uid 12345, .* name one of uid 0"):
        write_set(theirs, file_set([svid()], BUNDLES))
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(mode)
    with pytest.raises(CannotStart, match=f"open has mode {mode:04o}, .*: chmod go-w {open_to_all}"):
        write_set(open_to_all, file_set([svid()], BUNDLES))
    assert list(open_to_all.iterdir()) == []


def test_a_directory_that_others_may_read_and_a_link_to_it_are_taken(tmp_path: Path):
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("real")
    write_set(tmp_path / "link", file_set([svid()], BUNDLES))
    assert (tmp_path / "real" / "svid.0.pem").exists()


def test_a_link_in_place_of_a_set_ends_no_renewal_and_is_not_followed(tmp_path: Path):
    directory, elsewhere = tmp_path / "svids", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    write_set(directory, file_set([svid()], BUNDLES))
    for name, target in (("..set-a", elsewhere), ("..set-b", "nowhere")):
        (directory / name).symlink_to(target)
    for _ in range(3):
        write_set(directory, file_set([svid()], BUNDLES))
    assert (elsewhere / "precious").exists()
    assert (directory / "..set-b").is_symlink()
