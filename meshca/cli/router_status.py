"""What `meshca router status` asks and shows."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from meshca.cli.exits import Exit, Failure
from meshca.cli.output import rows, shown
from meshca.cli.values import printable
from meshca.wording import counted

ASK_SECONDS = 5.0


def ask(path: Path) -> dict[str, Any]:
    """The router's answer. Raises Failure when none answers there."""
    try:
        return asyncio.run(asyncio.wait_for(_ask(path), ASK_SECONDS))
    except PermissionError as error:
        raise Failure(Exit.NOT_ALLOWED, f"{path}: only root and the router's own user may ask") from error
    except (OSError, ValueError, EOFError, TimeoutError) as error:
        raise Failure(
            Exit.UNREACHABLE, f"no router answers at {path}: start `meshca router run`, or name its --status-socket"
        ) from error


async def _ask(path: Path) -> dict[str, Any]:
    """One request, by hand: a client library is slower to load than this is to write."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /status HTTP/1.1\r\nhost: router\r\nconnection: close\r\n\r\n")
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    found: dict[str, Any] = json.loads(body)
    return found


def tables(found: dict[str, Any]) -> list[RenderableType]:
    """For eyes: problems first."""
    lines: list[RenderableType] = [f"PROBLEM: {printable(each)}" for each in found["problems"]]
    ramps = found["canaries"]
    lines += [
        f"PROBLEM: {printable(each['object'])}: {printable(each['problem'])}"
        for each in ramps
        if each["problem"] and each["problem"] not in found["problems"]
    ]
    lines += [f"warning: {printable(each)}" for each in found["warnings"]]
    cells = (
        (
            each["spiffe_id"],
            each["node"],
            each["address"],
            each["dials_from"],
            _phase(each),
            [_type(name, kind) for name, kind in each["types"].items() if kind["resources"]],
            each["config_bytes"],
            _when(each["since"]),
            [_refusal(refused) for refused in each["refused"]],
        )
        for each in found["proxies"]
    )
    titles = ["SPIFFE ID", "NODE", "ADDRESS", "DIALS FROM", "PHASE", "ACKED", "BYTES", "SINCE", "REFUSED"]
    objects, proxies = found["objects"], len(found["proxies"])
    known = f"{counted(objects, 'object', 'objects')}, {counted(proxies, 'proxy', 'proxies')}"
    return [*lines, known, "", rows(titles, cells)]


def _phase(proxy: dict[str, Any]) -> list[str]:
    waits = [f"waits for {each['resource']}" for each in proxy["waits_for"]]
    held = [f"holds back {each['resource']}, which needs {', '.join(each['clusters'])}" for each in proxy["held_back"]]
    return [proxy["phase"] + (" (late)" if proxy["late"] else ""), *waits, *held, *proxy["obstacles"]]


def _type(name: str, kind: dict[str, Any]) -> str:
    refused = f", {kind['nacked']} refused" if kind["nacked"] else ""
    return f"{name} {kind['version'][:8]} {kind['acked']}/{kind['resources']}{refused}"


def _refusal(refused: dict[str, Any]) -> str:
    return f"{refused['resource']}: {refused['text']} (from {', '.join(refused['objects']) or 'no object'})"


def _when(text: str) -> str:
    return shown(datetime.fromisoformat(text).astimezone(UTC))
