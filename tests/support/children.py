"""Python in a process of its own: bound by the modes of files even if we are root, or to be killed."""

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]
NOBODY = 65534

# Root without these capabilities is stopped by the modes of its own files, as everybody is.
_LAUNCH = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) if os.geteuid() == 0 else ():
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs this code, which finds its arguments in `sys.argv[1:]`, in the directory TREE."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def run_unprivileged(code: str, *arguments: object) -> str:
    """What the code printed, run where the modes of files apply to it. Raises AssertionError with its last words when it fails."""
    command = python(_LAUNCH, code, *arguments)
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
