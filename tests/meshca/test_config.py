import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshca.config import (
    Authority,
    Config,
    Socket,
    format_duration,
    load,
    parse_duration,
    parse_socket_flag,
    read_passphrase,
    reference,
    reloadable,
    render_toml,
)
from meshca.config.sections import KeyManager
from meshca.errors import CannotStart, InvalidInput
from meshca.model import KeyType
from sds.unix_socket import SocketSpec
from spiffe.id import TrustDomain

ROOT, USER = 0, 1000
HOME = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000"}
TREE = Path(__file__).parents[2]
NINES = "9" * 100

FULL = """\
trust_domain = "example.org"
data_dir = "/srv/ca"
admin_socket = "/srv/admin.sock"
admin_uids = [7, 8]

[sockets.default]
path = "/srv/all.sock"

[sockets."a.b"]
path = "/srv/ab.sock"
mode = "0660"
group = "web"

[http]
enabled = false
address = "::1"
port = 0

[router]
config_dir = "/etc/mesh"
address = "0.0.0.0"
port = 15011
domain = "example.org"

[log]
format = "json"
level = "debug"

[authority]
root_lifetime = "30d"
intermediate_lifetime = "3h"
leaf_lifetime = "1h"
settle = "200ms"
alarm_after = "1m"
tick = "50ms"
root_key = "rsa-4096"
intermediate_key = "ec-p384"
leaf_key = "rsa-2048"

[key_manager]
kind = "disk"
passphrase_file = "/srv/passphrase"

[store]
kind = "sqlite"
path = "/srv/ca.db"

[limits]
connections_per_uid = 5
unentitled_streams_per_uid = 6
unentitled_stream_lifetime = "7s"
max_message_bytes = 65536
"""


@pytest.fixture
def file(tmp_path: Path):
    return tmp_path / "meshca.toml"


def refusal(file: Path, text: str, overrides: dict[str, Any] | None = None, environ: dict[str, str] | None = None):
    """The lines of a refusal, without the name of the file."""
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load(file, overrides or {}, environ or {}, ROOT)
    head, *lines = str(caught.value).replace(f"{file}: ", "").split("\n  ")
    assert head == f"{len(lines)} error{'s' * (len(lines) > 1)} in the configuration:"
    return lines


def test_nothing_needs_to_be_said_and_each_user_has_places_of_their_own():
    root, user, bare = load(None, {}, HOME, ROOT), load(None, {}, HOME, USER), load(None, {}, {"HOME": "/h"}, USER)
    assert root.trust_domain == TrustDomain("mesh.local")
    assert (root.data_dir, root.admin_socket) == (Path("/var/lib/meshca"), Path("/run/meshca/admin.sock"))
    assert root.socket_specs == (SocketSpec(name="default", path=Path("/run/meshca/workload.sock")),)
    assert root.store_url == "sqlite:////var/lib/meshca/store.db"
    assert root.keys_directory == Path("/var/lib/meshca/keys")
    assert user.data_dir == Path("/home/ada/.local/state/meshca")
    assert user.sockets["default"].path == Path("/run/user/1000/meshca/workload.sock")
    assert load(None, {}, HOME | {"XDG_STATE_HOME": "/state"}, USER).data_dir == Path("/state/meshca")
    assert load(None, {}, HOME | {"XDG_STATE_HOME": "relative"}, USER).data_dir == user.data_dir
    assert bare.admin_socket == Path("/h/.local/state/meshca/admin.sock")


def test_the_sockets_stay_where_the_command_line_looks_when_the_data_moves():
    assert load(None, {"data_dir": "/elsewhere"}, HOME, USER).admin_socket == load(None, {}, HOME, USER).admin_socket


def test_every_setting_can_be_written_and_is_shown_as_it_was_written(file: Path):
    file.write_text(FULL)
    config = load(file, {}, {}, ROOT)
    assert render_toml(config) == FULL.replace('/all.sock"\n', '/all.sock"\nmode = "0666"\n')
    assert config.authority.root_key is KeyType.RSA_4096
    assert config.socket_specs[1] == SocketSpec(name="a.b", path=Path("/srv/ab.sock"), mode=0o660, group="web")
    sections = (config, config.sockets["a.b"], config.http, config.log, config.authority, config.store, config.limits)
    unset = {name for each in sections for name in type(each).model_fields if name not in FULL}
    assert unset == {"url"}


@pytest.mark.parametrize("text", ["", FULL], ids=["defaults", "full"])
def test_what_is_shown_reads_back_as_the_same(file: Path, text: str):
    file.write_text(text)
    config = load(file, {}, {}, ROOT)
    file.write_text(render_toml(config))
    assert load(file, {}, {}, USER) == config


def test_a_flag_counts_more_than_the_file_that_more_than_the_environment_that_more_than_the_default(file: Path):
    file.write_text('trust_domain = "file"\n[log]\nformat = "json"')
    environ = {
        "MESHCA_TRUST_DOMAIN": "variable",
        "MESHCA_DATA_DIR": "/variable",
        "MESHCA_LOG_FORMAT": "console",
        "MESHCA_LOG_LEVEL": "debug",
        "MESHCA_ADMIN_SOCKET": "",
    }
    config = load(file, {"trust_domain": "flag"}, environ, ROOT)
    assert config.trust_domain == TrustDomain("flag")
    assert (config.log.format, config.log.level) == ("json", "debug")
    assert config.data_dir == Path("/variable")
    assert config.admin_socket == Path("/run/meshca/admin.sock")  # an empty variable says nothing
    assert load(file, {}, environ, ROOT).trust_domain == TrustDomain("file")


def test_sockets_of_flags_join_those_of_the_file_and_replace_whole_ones(file: Path):
    file.write_text('[sockets.a]\npath = "/a"\nmode = "0600"\n[sockets.b]\npath = "/b"')
    config = load(file, {"socket": ["a=/x", "c=/c,mode=0660,group=5"]}, {}, ROOT)
    assert config.sockets == {
        "a": Socket.model_validate({"path": "/x"}),
        "b": Socket.model_validate({"path": "/b"}),
        "c": Socket.model_validate({"path": "/c", "mode": "0660", "group": "5"}),
    }
    assert config.socket_specs[2].group == 5


def test_paths_of_flags_are_meant_from_here():
    config = load(None, {"data_dir": Path("data"), "socket": ["a=s"]}, {}, ROOT)
    assert (config.data_dir, config.sockets["a"].path) == (Path.cwd() / "data", Path.cwd() / "s")


ALONE = [
    (
        'trust_domain = "Mesh"',
        """trust_domain = "Mesh" is no trust domain: trust domain 'Mesh' has characters other than a-z 0-9 . - _ (ID-09)""",
    ),
    ("trust_domain = 1", 'trust_domain = 1 is not a name such as "mesh.local"'),
    ("[trust_domain]\nx = 1", 'trust_domain = {x = 1} is not a name such as "mesh.local"'),
    ('data_dir = "data"', 'data_dir = "data" is not an absolute path'),
    ("admin_uids = [1, true]", "admin_uids.1 = true is not a whole number"),
    ("admin_uids = [-1]", "admin_uids.0 = -1 is less than 0"),
    ("admin_uids = 5", "admin_uids = 5 is not a list, such as [1000, 1001]"),
    ("[sockets]", "sockets = {} is empty: at least one is needed"),
    ("[sockets.web]", "sockets.web.path is missing"),
    ('[sockets]\nweb = "/x"', 'sockets.web = "/x" is not a table'),
    (
        '[sockets."a b"]\npath = "/x"',
        'sockets."a b" = {path = "/x"} is not a name of 1 to 64 letters, digits, . _ and -',
    ),
    (
        f'[sockets.web]\npath = "/{NINES}/x.sock"',
        f'sockets.web.path = "/{NINES}/x.sock" can not be: socket path /{NINES}/x.sock has 108 bytes, the limit is 107',
    ),
    ('[sockets.web]\npath = "/x"\nmode = 660', 'sockets.web.mode = 660 is not octal digits in quotes, such as "0660"'),
    ('[sockets.web]\npath = "/x"\nmode = "0999"', 'sockets.web.mode = "0999" is not within "0000" to "0777"'),
    ('[sockets.web]\npath = "/x"\ngroup = ""', 'sockets.web.group = "" is empty'),
    ('[sockets.web]\npath = "/x"\nmod = "0600"', "sockets.web.mod is no setting: did you mean mode?"),
    ('http = "no"', 'http = "no" is not a table'),
    (
        '[http]\naddress = "localhost"',
        'http.address = "localhost" is not an IP address such as "127.0.0.1", "0.0.0.0" or "::"',
    ),
    ("[http]\nport = 65536", "http.port = 65536 is more than 65535"),
    ('[http]\nport = "80"', 'http.port = "80" is not a whole number'),
    ("[http]\nenabled = 1", "http.enabled = 1 is not true or false"),
    ('[log]\nlevel = "INFO"', "log.level = \"INFO\" is not 'debug', 'info', 'warning' or 'error'"),
    ("[authority]\nsettle = 5", 'authority.settle = 5 is not a text such as "15m"'),
    ('[authority]\nsettle = "5"', 'authority.settle = "5" is not a duration: write 90s, 15m, 24h or 365d, in quotes'),
    ('[authority]\nsettle = "0s"', 'authority.settle = "0s" is not within 1ms to 36500d'),
    (
        '[authority]\nroot_lifetime = "101w100y"',
        'authority.root_lifetime = "101w100y" is not a duration: write 90s, 15m, 24h or 365d, in quotes',
    ),
    ('[authority]\nroot_lifetime = "999999999999w"', 'authority.root_lifetime = "999999999999w" is longer than 36500d'),
    ('[authority]\nleaf_lifetime = "9s"', 'authority.leaf_lifetime = "9s" is not within 10s to 36500d'),
    ('[authority]\ntick = "2m"', 'authority.tick = "2m" is not within 10ms to 1m'),
    (
        '[authority]\nroot_key = "ed25519"',
        "authority.root_key = \"ed25519\" is not 'ec-p256', 'ec-p384', 'rsa-2048', 'rsa-3072' or 'rsa-4096'",
    ),
    ("[limits]\nconnections_per_uid = 0", "limits.connections_per_uid = 0 is less than 1"),
    ("colour = 1", "colour is no setting: there are " + ", ".join(Config.model_fields)),
    ("[stor]\nx = 1", "stor is no setting: did you mean store?"),
]

TOGETHER = [
    (
        '[authority]\nintermediate_lifetime = "2h"',
        'authority.intermediate_lifetime = "2h" is shorter than leaf_lifetime and two leaf lifetimes: at least 3h',
    ),
    (
        '[authority]\nleaf_lifetime = "9h"',
        'authority.intermediate_lifetime = "1d" (default) is shorter than leaf_lifetime and two leaf lifetimes: at least 1d3h',
    ),
    (
        '[authority]\nroot_lifetime = "25h"',
        'authority.root_lifetime = "25h" is shorter than intermediate_lifetime and two leaf lifetimes: at least 1d2h',
    ),
    ('[authority]\nleaf_lifetime = "10s"', 'authority.settle = "10s" (default) is not shorter than leaf_lifetime, 10s'),
    (
        '[key_manager]\nkind = "memory"',
        'key_manager.kind = "memory" forgets the keys of a sqlite store that remembers their authorities: disk, or store.kind memory',
    ),
    (
        '[key_manager]\nkind = "memory"\npassphrase_file = "/p"\n[store]\nkind = "memory"',
        'key_manager.passphrase_file = "/p" encrypts keys on disk only, and kind is memory',
    ),
    (
        '[key_manager]\npassphrase_file = "/p"\npassphrase_env = "P"',
        'key_manager.passphrase_file = "/p" is one too many: passphrase_env is set too',
    ),
    ('[store]\nkind = "memory"\npath = "/s"', 'store.path = "/s" is for a sqlite store, and kind is memory'),
    (
        '[store]\nkind = "postgresql"',
        "store.url (not shown) is what a postgresql store needs and no other has: kind is postgresql",
    ),
    ('admin_socket = "/s"\n[sockets.web]\npath = "/s"', 'sockets.web.path = "/s" is the path of admin_socket too'),
    ('[sockets.a]\npath = "/s"\n[sockets.b]\npath = "/s"', 'sockets.b.path = "/s" is the path of sockets.a.path too'),
]


@pytest.mark.parametrize(("text", "line"), ALONE + TOGETHER)
def test_what_can_not_be_is_refused_with_its_key_its_value_and_what_may_be(file: Path, text: str, line: str):
    assert refusal(file, text) == [line]


def test_everything_that_is_wrong_is_said_at_once(file: Path):
    singles = [case for case in ALONE if case[0].count("\n") == 0 and case[0].split(" ")[0] in {"data_dir", "colour"}]
    text = "\n".join(text for text, _ in singles) + '\n[authority]\nsettle = "5"\n[key_manager]\nkind = "memory"'
    found = refusal(file, text, {"socket": ["w=/a,mode=7"], "log_format": "xml"}, {"MESHCA_TRUST_DOMAIN": "a b"})
    assert found == [
        "MESHCA_TRUST_DOMAIN: " + ALONE[0][1].replace("Mesh", "a b"),
        'data_dir = "data" is not an absolute path',
        '--socket: sockets.w.mode = "7" is not within "0000" to "0777"',
        "--log-format: log.format = \"xml\" is not 'console' or 'json'",
        'authority.settle = "5" is not a duration: write 90s, 15m, 24h or 365d, in quotes',
        singles[1][1],
        TOGETHER[4][1],
    ]


def test_a_default_that_can_not_be_is_refused_too():
    with pytest.raises(InvalidInput, match=r"default: admin_socket = .* has \d+ bytes, the limit is 107"):
        load(None, {}, {"XDG_RUNTIME_DIR": f"/{NINES}", "HOME": "/h"}, USER)


@pytest.mark.parametrize(
    "text",
    ['store = "hunter2"', '[store]\nurl = "hunter2"', '[store]\nurl = ["hunter2"]', '[key_manager]\npassphrase_env = "hunter2!"',
     '[store]\npassword = "hunter2"', 'key_manager = "hunter2"', '[store]\nkind = "memory"\nurl = "hunter2"'],
)  # fmt: skip
def test_a_refusal_never_repeats_what_may_be_a_secret(file: Path, text: str):
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load(file, {}, {}, ROOT)
    assert "hunter2" not in repr(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_the_url_of_a_store_is_used_but_never_shown(file: Path):
    url = "postgresql+psycopg://ca:hunter2@db/ca"
    file.write_text('[store]\nkind = "postgresql"')
    config = load(file, {}, {"MESHCA_STORE_URL": url}, ROOT)
    assert config.store_url == url
    other = load(file, {}, {"MESHCA_STORE_URL": url + "2"}, ROOT)
    (change,) = reloadable(config, other).restart
    shown = render_toml(config)
    assert str(change) == "store.url: (not shown) -> (not shown)"
    assert "# url is set and not shown" in shown
    assert "hunter2" not in shown + repr(config)


def test_a_file_that_is_no_configuration_is_refused_by_name(file: Path, tmp_path: Path):
    for content, text in (
        (b"a = ", "is not TOML: Invalid value"),
        (b"\xff", "is not TOML"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"#" * 2**21, "1048576 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=f"{file}: .*{text}"):
            load(file, {}, {}, ROOT)
    for path, text in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CannotStart, match=f"configuration file {path} can not be read: {text}"):
            load(path, {}, {}, ROOT)


@pytest.mark.parametrize(
    "flag", ["", "a", "a=", "=/x", "a=/x,mode", "a=/x,mode=", "a=/x,colour=1", "a=/x,mode=1,mode=2"]
)
def test_a_malformed_socket_flag_is_refused_with_how_to_write_it(flag: str):
    with pytest.raises(InvalidInput, match=r"--socket .*mode=0660"):
        parse_socket_flag(flag)


def test_a_socket_name_twice_on_one_command_line_is_refused():
    with pytest.raises(InvalidInput, match="the name 'a' is given twice"):
        load(None, {"socket": ["a=/x", "a=/y"]}, {}, ROOT)


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=36500)))
def test_every_duration_reads_back_as_it_was_written(value: timedelta):
    assert parse_duration(format_duration(value)) == value


@given(st.text(alphabet="0123456789wdhmsu -.१", max_size=12))
def test_a_text_is_a_duration_or_is_refused(text: str):
    try:
        assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)
    except ValueError as error:
        assert "duration" in str(error) or "longer" in str(error)  # noqa: PT017 - either outcome is right


def test_a_configuration_is_frozen_and_valid_however_it_is_built():
    config = load(None, {}, {}, ROOT)
    with pytest.raises(ValidationError, match="frozen"):
        config.data_dir = Path("/x")
    with pytest.raises(ValidationError, match="contradict"):
        Config(**{**dict(config), "authority": Authority(leaf_lifetime=timedelta(days=2))})


def test_sighup_applies_what_it_can_and_names_what_needs_a_restart(file: Path):
    old = load(None, {}, {}, ROOT)
    file.write_text(
        'admin_uids = [5]\n[http]\nport = 1\n[log]\nlevel = "debug"\n[authority]\nsettle = "5s"\n[sockets.a]\npath = "/a"'
    )
    new = load(file, {}, {}, ROOT)
    found = reloadable(old, new)
    assert [str(change) for change in found.applied] == [
        "admin_uids: [] -> [5]",
        'log.level: "info" -> "debug"',
    ]
    assert str(found.restart[0]) == "sockets: default=/run/meshca/workload.sock,mode=0666 -> a=/a,mode=0666"
    assert [change.key for change in found.restart] == ["sockets", "http.port", "authority.settle"]
    assert found.config == Config(**{**dict(old), "admin_uids": (5,), "log": new.log})
    assert reloadable(found.config, new).restart == found.restart
    assert reloadable(found.config, new).applied == ()


def test_the_passphrase_comes_from_a_private_file_or_a_variable(tmp_path: Path):
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse\r\nignored")
    path.chmod(0o440)
    in_file, in_variable = KeyManager(passphrase_file=path), KeyManager(passphrase_env="P")
    assert read_passphrase(KeyManager(), {}) is None
    assert read_passphrase(in_file, {}) == b"correct horse"
    assert read_passphrase(in_variable, {"P": "battery"}) == b"battery"
    for settings, environ, text in (
        (in_variable, {}, "names P, which is not set"),
        (KeyManager(passphrase_file=tmp_path / "none"), {}, "none can not be read: No such file"),
    ):
        with pytest.raises(CannotStart, match=text):
            read_passphrase(settings, environ)
    path.chmod(0o644)
    with pytest.raises(CannotStart, match=r"is open to others \(mode 0644\): chmod 0400 it"):
        read_passphrase(in_file, {})
    path.chmod(0o600)
    path.write_bytes(b"\nx")
    with pytest.raises(CannotStart, match="empty first line"):
        read_passphrase(in_file, {})


def test_the_reference_is_fresh_and_tells_of_every_setting():
    command = f"{Path(sys.executable).name} -m meshca.config > docs/configuration.md"
    made = subprocess.run(
        [sys.executable, "-m", "meshca.config"], cwd=TREE, capture_output=True, text=True, check=True
    ).stdout
    assert made == reference()
    assert (TREE / "docs/configuration.md").read_text() == made, f"regenerate: {command}"


def test_the_default_sockets_are_the_user_s_own_unless_only_the_system_has_one(tmp_path: Path):
    code = "from meshca import config; print(config.default_admin_socket(), config.default_workload_socket())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    ).stdout.split()  # fmt: skip
    directory = "/run/meshca" if os.geteuid() == 0 else f"{tmp_path}/meshca"
    assert found == [f"{directory}/admin.sock", f"{directory}/workload.sock"]


def test_a_user_without_a_home_is_told_to_set_it_unless_all_places_are_given():
    for environ in ({}, {"HOME": ""}, {"HOME": "relative"}):
        with pytest.raises(InvalidInput, match="set HOME"):
            load(None, {}, environ, USER)
    places = {"data_dir": "/d", "admin_socket": "/a.sock", "socket": ["w=/w.sock"]}
    assert load(None, places, {}, USER).data_dir == Path("/d")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_that_can_not_be_seen_is_not_there(tmp_path: Path):
    code = "import os\nfrom meshca.config import default_admin_socket\nos.setuid(65534)\nprint(default_admin_socket())"
    tmp_path.chmod(0o700)
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() in {f"{tmp_path}/meshca/admin.sock", "/run/meshca/admin.sock"}
