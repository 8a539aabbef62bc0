import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from meshca.cli.exits import Exit
from meshca.config import load
from meshca.config.places import SYSTEM_DATA, SYSTEM_RUNTIME

UNIT = Path(__file__).parents[2] / "deploy/meshca.service"
SPECIFIERS = {"%S": "/var/lib", "%t": "/run"}


def settings() -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def test_the_unit_puts_everything_where_root_s_command_line_looks() -> None:
    (variables,) = settings()["Environment"]
    for specifier, directory in SPECIFIERS.items():
        variables = variables.replace(specifier, directory)
    config = load(None, {}, dict(each.split("=") for each in variables.split()), 999)
    assert (config.data_dir, config.admin_socket.parent) == (SYSTEM_DATA, SYSTEM_RUNTIME)
    assert config.sockets["default"].path.parent == SYSTEM_RUNTIME
    assert (f"/var/lib/{settings()['StateDirectory'][0]}", f"/run/{settings()['RuntimeDirectory'][0]}") == (
        "/var/lib/meshca",
        "/run/meshca",
    )


def test_the_unit_keeps_the_capability_that_attestation_needs_and_no_other() -> None:
    unit = settings()
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ["CAP_SYS_PTRACE"]
    assert (unit["ProtectProc"], unit["PrivateUsers"], unit["NoNewPrivileges"]) == (["default"], ["no"], ["yes"])
    for_good = (Exit.USAGE, Exit.NOT_FOUND, Exit.NOT_ALLOWED)
    assert unit["RestartPreventExitStatus"] == [" ".join(str(each.value) for each in for_good)]
    assert unit["User"] == ["meshca"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "meshca.service"
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/meshca", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
