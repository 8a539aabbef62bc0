"""The command line as a person uses it: `meshca ...` in a process of its own."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_HTTP = Path(__file__).parents[1] / "vectors" / "no_http.toml"
"""A configuration for servers that end before they serve: the port of http may be taken on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


async def meshca(*arguments: object, within: float = 60.0, preexec_fn: Any = None, **environ: str) -> Ended:
    """Run `meshca` to its end, with these environment variables beside ours. Raises TimeoutError, and then it is gone too."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MESHCA_", "SPIFFE_", "XDG_"))}
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "meshca", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=ours | environ, preexec_fn=preexec_fn
    )
    try:
        async with asyncio.timeout(within):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(code=process.returncode or 0, out=out.decode(), err=err.decode())
