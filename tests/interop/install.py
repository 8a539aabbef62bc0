"""The third parties, fetched and built once, and reused until what decides their content changes.

All of it is in `.venv-interop/` at the root of the repository. A stamp there says what was made; a lock makes a second test run wait.
"""

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / ".venv-interop"

_UNREACHABLE = re.compile(
    "NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|NameResolution|Max retries|Connection (refused|reset)"
    "|Network is unreachable|no such host|dial tcp|i/o timeout|TLS handshake timeout"
)


def pyspiffe() -> list[str]:
    """The command that runs py-spiffe's driver. Skips the test if it is not here and no package index can be reached."""
    constraints, place = HERE / "constraints.txt", PLACE / "pyspiffe"
    python = place / "bin" / "python"

    def make() -> None:
        _run(sys.executable, "-m", "venv", "--clear", str(place))
        quiet = ["--quiet", "--disable-pip-version-check", "--retries", "1"]
        _run(str(python), "-m", "pip", "install", *quiet, "--constraint", str(constraints), "spiffe", "spiffe-tls")

    _once("pyspiffe", constraints.read_bytes() + sys.version.encode(), make)
    return [str(python), "-I", str(HERE / "pyspiffe_driver.py")]  # -I: our own `spiffe` must not be found


def gospiffe() -> list[str]:
    """The command that runs go-spiffe's driver. Skips the test where there is no Go, or it is not built and no module can be had."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    module, program = HERE / "gospiffe", PLACE / "gospiffe"
    sources = b"".join((module / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    _once("gospiffe", sources, lambda: _run("go", "build", "-o", str(program), ".", directory=module))
    return [str(program)]


def _once(name: str, content: bytes, make: Callable[[], None]) -> None:
    PLACE.mkdir(exist_ok=True)
    (PLACE / ".gitignore").write_text("*\n")
    stamp, digest = PLACE / f"{name}.stamp", sha256(content).hexdigest()
    with (PLACE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest:
            stamp.unlink(missing_ok=True)
            make()
            stamp.write_text(digest)


def _run(*command: str, directory: Path = HERE) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode and (found := _UNREACHABLE.search(done.stderr)):
        pytest.skip(f"{Path(command[0]).name} cannot fetch what it needs: {found[0]}")
    assert done.returncode == 0, done.stderr
