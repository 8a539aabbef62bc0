"""What is wrong with documents, and what people are told of it: `refusals.txt`, written anew by `python -m tests.vectors.refusals`.

A case is a line `kind | specification` (for a `rule` the fields of one rule), and a line for each problem. Cases are added without
problems by hand; what is then written for them is to be read before it is committed: each must say what is wrong and what to do.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.support.documents import gateway, istio, problems, rule

FILE = Path(__file__).parent / "refusals.txt"


def cases() -> Iterator[tuple[str, list[str]]]:
    """Yield each case with what is to be told of it."""
    for block in FILE.read_text().strip().split("\n\n"):
        case, *told = block.split("\n")
        yield case, told


def told(case: str) -> list[str]:
    """Return what is told of a case."""
    kind, _, spec = case.partition(" | ")
    if kind == "rule":
        return problems(rule(spec))
    return problems(gateway(kind, spec) if kind.endswith("Route") else istio(kind, spec))


if __name__ == "__main__":
    FILE.write_text("\n\n".join("\n".join((case, *told(case))) for case, _ in cases()) + "\n")
