"""The wheel is all that a user needs: built, installed outside the tree, and run there. Dependencies are lent, not downloaded."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.wait import until

ROOT = Path(__file__).parents[2]
SETTINGS = """\
data_dir = "{home}/data"
admin_socket = "{home}/admin.sock"
sockets.default.path = "{home}/workload.sock"
http.enabled = false
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (made,) = place.glob("meshca-*.whl")
    return made


@pytest.fixture(scope="module")
def meshca(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment that has our wheel, and of ours only the dependencies: the tree itself is not on its path."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(home / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True)
    (packages / "lent.pth").write_text(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n")
    return home / "bin" / "meshca"


def environment() -> dict[str, str]:
    """Ours, without what would lead back into the tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MESHCA_", "COV"))}


def run(*command: object, cwd: Path) -> str:
    ended = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_has_the_three_packages_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"spiffe", "sds", "meshca"}
    assert {"meshca/py.typed", "sds/py.typed", "spiffe/py.typed"} <= set(names)
    assert [name for name in names if name.endswith((".pyc", ".db", ".pem"))] == []


def test_the_installed_program_explains_itself_from_its_own_files(meshca: Path, tmp_path: Path):
    assert "Run server and agent in one process." in run(meshca, "--help", cwd=tmp_path)
    run(meshca, "config", "check", cwd=tmp_path)
    where = "import spiffe, sds, meshca; print(spiffe.__file__, sds.__file__, meshca.__file__)"
    places = run(meshca.parent / "python", "-c", where, cwd=tmp_path).split()
    assert [place for place in places if not place.startswith(str(meshca.parents[1]))] == []


async def test_the_installed_server_becomes_ready_and_healthy(meshca: Path, tmp_path: Path):
    (tmp_path / "meshca.toml").write_text(SETTINGS.format(home=tmp_path))
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: ASYNC220 - it only forks
            [meshca, "up", "--config", "meshca.toml"], cwd=tmp_path, env=environment(), stdout=output, stderr=output
        )
    try:
        await until(lambda: "ready\n" in log.read_text() or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        assert run(meshca, "health", "--admin-socket", tmp_path / "admin.sock", cwd=tmp_path).startswith("ready")
    finally:
        server.terminate()
        assert server.wait(30) == 0
