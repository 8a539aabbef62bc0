import os
import socket
from pathlib import Path

import pytest

from sds.errors import SDSError
from sds.unix_socket import LONGEST_PATH, SocketSpec, check_free, listen


def spec(path: Path, **changes: object) -> SocketSpec:
    return SocketSpec(name="web", path=path, **changes)


def test_a_path_may_be_as_long_as_the_kernel_allows_and_no_longer(tmp_path: Path):
    longest = tmp_path / ("s" * (LONGEST_PATH - len(str(tmp_path)) - 1))
    listen(spec(longest)).close()
    with pytest.raises(SDSError, match=f"{longest}s has 108 bytes, the limit is 107"):
        spec(Path(f"{longest}s"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"path": Path("relative.sock")}, "relative.sock"),
        ({"path": Path("/tmp/zero\0byte")}, "absolute"),
        ({"name": "a/b"}, "a/b"),
        ({"name": ""}, "name"),
        ({"mode": 0o1777}, "1777"),
    ],
)
def test_what_no_socket_can_have_is_refused_by_value(changes: dict, complaint: str):
    with pytest.raises(SDSError, match=complaint):
        SocketSpec(**{"name": "web", "path": Path("/tmp/s"), **changes})


def test_a_missing_directory_is_made_and_everybody_may_enter_it(tmp_path: Path):
    before = os.umask(0o077)
    try:
        listener = listen(spec(tmp_path / "run" / "s", mode=0o660, group=os.getgid()))
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    status = (tmp_path / "run" / "s").stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o660, os.getgid())
    listener.close()
    assert not (tmp_path / "run" / "s").exists()


def test_a_socket_on_which_nobody_listens_is_replaced(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / "s"))
    listener = listen(spec(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    listener.close()


def test_the_path_of_a_running_server_is_refused_and_left_alone(tmp_path: Path):
    first = listen(spec(tmp_path / "s"))
    with pytest.raises(SDSError, match=f"{tmp_path / 's'} .*a running server listens there"):
        listen(spec(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    first.close()


def test_what_keeps_us_from_listening_is_known_beforehand_and_nothing_is_changed(tmp_path: Path):
    check_free(spec(tmp_path / "new" / "s", group=os.getgid()))
    assert not (tmp_path / "new").exists()
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / "s"))
    check_free(spec(tmp_path / "s"))
    assert (tmp_path / "s").is_socket()

    (tmp_path / "file").write_text("precious")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "live"))
        live.listen()
        for wrong, complaint in (
            (spec(tmp_path / "file"), "something that is not a socket"),
            (spec(tmp_path / "file" / "s"), "file is no directory that we may write"),
            (spec(tmp_path / "live"), "a running server listens there"),
            (spec(tmp_path / "t", group="no-such-group"), "no group 'no-such-group'"),
        ):
            with pytest.raises(SDSError, match=complaint):
                check_free(wrong)


@pytest.mark.parametrize("other", ["file", "directory", "link"])
def test_whatever_is_not_a_socket_is_left_alone(tmp_path: Path, other: str):
    path = tmp_path / "s"
    if other == "file":
        path.write_text("precious")
    elif other == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SDSError, match="not a socket"):
        listen(spec(path))
    assert path.is_symlink() or path.exists()


def test_a_directory_that_can_not_be_made_and_an_unknown_group_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SDSError, match="file/s cannot be opened"):
        listen(spec(tmp_path / "file" / "s"))
    with pytest.raises(SDSError, match="no-such-group"):
        listen(spec(tmp_path / "s", group="no-such-group"))


def test_closing_leaves_the_socket_of_a_successor(tmp_path: Path):
    old = listen(spec(tmp_path / "s"))
    (tmp_path / "s").unlink()
    new = listen(spec(tmp_path / "s"))
    old.close()
    assert (tmp_path / "s").is_socket()
    new.close()
    new.close()
