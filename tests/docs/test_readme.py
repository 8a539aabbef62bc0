"""The README does what it says: its targets and options exist, and its commands run, one after the other, against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from meshca.cli import load
from meshca.demo.server import Server, running_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

BLOCKS = [
    [line.partition(" #")[0].strip() for line in block.splitlines()]
    for block in re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
]
COMMANDS = [line.removeprefix(".venv/bin/") for block in BLOCKS for line in block if not line.startswith("make ")]
NAMED = [command.removeprefix("meshca ") for command in COMMANDS]
NAMED += re.findall(r"`meshca ([^`\n]+)`", README)
NAMED += [f"demo {options}" for options in re.findall(r'make demo ARGS="([^"]*)"', README)]


def test_every_target_that_it_names_is_in_the_makefile():
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= named <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_the_test_command_can_be_narrowed_as_contributing_says():
    assert 'ARGS="-k gate" narrows it' in (ROOT / "docs/contributing.md").read_text()
    dry = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test", "ARGS=-k gate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert dry.stdout.splitlines()[-1].endswith("python -m pytest -k gate")


@pytest.mark.parametrize("named", NAMED)
def test_every_command_that_it_names_exists_and_has_its_options(named: str):
    first, *words = named.split()
    command = load(first)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {word for word in words if word.startswith("--")}
    assert options <= {name for each in command.params for name in each.opts} | {"--help"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """What its `meshca up` starts, in a place of its own."""
    async with running_server(tmp_path_factory.mktemp("readme"), ["default"]) as running:
        yield running


def test_its_commands_run_one_after_the_other(server: Server):
    assert COMMANDS[0] == "meshca up"
    sockets = {
        "MESHCA_ADMIN_SOCKET": server.admin_socket,
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{server.sockets['default']}",
    }
    printed = {}
    for command in COMMANDS[1:]:
        line = command.replace("meshca", f"{sys.executable} -m meshca", 1)
        ended = subprocess.run(
            ["bash", "-c", line], env={**os.environ, **sockets}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), f"{command}: {ended.stderr}"
        printed[command] = ended.stdout
    assert "spiffe://mesh.local/web" in printed["meshca svid fetch"]
    assert "BEGIN CERTIFICATE" in printed["meshca bundle show"]
    assert "the root is replaced" in printed["meshca authority rotate --kind root"]
