import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshca.cli import main
from meshca.proto import admin_pb2 as pb
from tests.support.scripted_server import ScriptedServer, scripted_server


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path / "admin.sock", pb) as server:
        yield server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in this process, against the scripted server when there is one; what it prints goes to no terminal."""
    monkeypatch.setenv("MESHCA_ADMIN_SOCKET", str(tmp_path / "admin.sock"))

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        printed = capsys.readouterr()
        return Outcome(int(end.value.code or 0), printed.out, printed.err)

    return run
