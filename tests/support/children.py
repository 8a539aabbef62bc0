"""Python in a process of its own: as a user who is not root, or to be killed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[2]
NOBODY = 65534


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs this code, which finds its arguments in `sys.argv[1:]`."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def run_unprivileged(code: str, *arguments: object) -> str:
    """What the code printed, run as a user to whom the modes of files apply: uid 65534 if we are root, else ourselves."""
    identity: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        python(code, *arguments), cwd=TREE, capture_output=True, text=True, timeout=60, check=False, **identity
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
