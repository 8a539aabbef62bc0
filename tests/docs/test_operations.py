"""Every command of docs/operations.md runs, in order, against a real server; what stands in comments there checks the outcome.

`systemctl` and `sudo` are stood in for: they act on the server of this test, as its user.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from meshca.clock import SystemClock
from meshca.demo.mesh import free_port
from meshca.router.admission import Admission
from meshca.router.ads import Router
from meshca.router.app import Running
from meshca.router.canary.ramp_store import RampDirectory
from meshca.router.canary.ramping import Ramping
from meshca.router.identity import Credentials
from meshca.router.mesh.state import State
from meshca.router.metrics import RouterMetrics
from meshca.router.resources.world import World
from meshca.telemetry import Standing, Telemetry
from sds.watch import Latest
from tests.support.values import slots

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"
BLOCK = re.compile(r"^(?:```sh|<!--sh)\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)

SYSTEMCTL = """#!/bin/bash -eu
cd {home}
case $1 in
  start) {bin}/meshca up --config etc/meshca.toml >> log 2>&1 < /dev/null & echo $! > pid
         for _ in $(seq 300); do {bin}/meshca health > /dev/null 2>&1 && exit 0; sleep 0.1; done; tail log >&2; exit 1;;
  stop) kill -TERM $(cat pid); for _ in $(seq 300); do kill -0 $(cat pid) 2> /dev/null || exit 0; sleep 0.1; done; exit 1;;
  reload) kill -HUP $(cat pid);;
esac
"""
SUDO = """#!/bin/bash -eu
test "$1 $2" = "-u meshca"
shift 2
exec "$@"
"""
CONFIGURATION = """\
data_dir = "{home}/lib"
admin_socket = "{home}/admin.sock"
http.port = {port}
authority.settle = "50ms"
authority.tick = "20ms"
[sockets.default]
path = "{home}/workload.sock"
"""
PRELUDE = """
authority() {  # KIND STATE: the id of the newest such authority
  meshca authority list --output json | python -c '
import json, sys
found = [a["id"] for a in json.load(sys.stdin)["authorities"] if (a["kind"], a["state"]) == (sys.argv[1], sys.argv[2])]
print(found[-1] if found else "")' "$1" "$2"
}
until_authority_differs() {
  for _ in $(seq 60); do test "$(authority "$1" active)" = "$2" || return 0; sleep 0.2; done
  return 1
}
until_only_two() {
  for _ in $(seq 60); do test "$(meshca authority list --output yaml | grep -c '  kind: ')" = 2 && return 0; sleep 0.2; done
  return 1
}
"""


def script() -> str:
    """All blocks in one, each announced by its line."""
    text = DOCUMENT.read_text()
    lines = [f": line {text.count(chr(10), 0, found.start()) + 1}\n{found[1]}" for found in BLOCK.finditer(text)]
    return PRELUDE + "\n".join(lines)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A server of its own, with programs that act on it."""
    for name in ("bin", "etc", "backups"):
        (tmp_path / name).mkdir()
    names = {"home": tmp_path, "bin": Path(sys.executable).parent, "port": free_port()}
    (tmp_path / "etc/meshca.toml").write_text(CONFIGURATION.format(**names))
    for name, text in (("systemctl", SYSTEMCTL.format(**names)), ("sudo", SUDO)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    yield tmp_path
    subprocess.run([tmp_path / "bin/systemctl", "stop"], check=False, capture_output=True)


@pytest.mark.slow
def test_every_command_works_as_it_is_told(home: Path):
    port = re.findall(r"http.port = (\d+)", (home / "etc/meshca.toml").read_text())[0]
    text = script().replace("127.0.0.1:9180", f"127.0.0.1:{port}").replace(" -o meshca ", " ")
    for place, here in (("/var/lib/meshca", "lib"), ("/etc/meshca", "etc"), ("/var/backups/meshca", "backups")):
        text = text.replace(place, str(home / here))
    path = f"{home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"PATH": path, "HOME": str(home), "MESHCA_ADMIN_SOCKET": f"{home}/admin.sock"}
    command = ["bash", "-euxo", "pipefail", "-c", f"systemctl start meshca\n{text}"]
    done = subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, "\n".join(done.stderr.splitlines()[-30:]) + (home / "log").read_text()[-2000:]


def idle_router() -> Running:
    """A router that has read nothing and serves nobody."""
    now, state = SystemClock().now, Latest(State())
    worlds: Latest[World | None] = Latest(None)
    credentials: Latest[Credentials | None] = Latest(None)
    admission = Admission(credentials=credentials, now=now)
    router = Router(worlds=worlds, admission=admission, now=now)
    ramping = Ramping(state=state, worlds=worlds, router=router, store=RampDirectory(Path()), now=now)
    return Running(
        router=router,
        ramping=ramping,
        admissions=(admission,),
        credentials=credentials,
        worlds=worlds,
        wanted=worlds,
        state=state,
    )


def test_every_metric_that_it_names_is_there_and_the_rules_are_yaml():
    text = DOCUMENT.read_text()
    (rules,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    named = set(re.findall(r"meshca_\w+", text))
    telemetry = Telemetry(version="test")
    telemetry.registry.register(RouterMetrics(idle_router()))
    shown = telemetry.render(Standing(ready=True, slots=slots())).decode()
    assert named <= set(re.findall(r"^(meshca_\w+)", shown, re.MULTILINE))
    alerts = [rule["alert"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len(alerts) == len(set(alerts)) > 5
