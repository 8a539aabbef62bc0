"""docs/standards.md names every row that binds us exactly once, and names only what exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE_ROW = re.compile(r"\| ([A-Z0-9]{2}-\d\d|P\d+) \| .+ \| ([^|]+) \| ([^|]+) \|")


def rows(prefix: str, numbers: str) -> list[str]:
    """The ids of numbers and ranges such as `1 3 5-9`."""
    spans = [(span.split("-")[0], span.split("-")[-1]) for span in numbers.split()]
    return [f"{prefix}-{number:02}" for first, last in spans for number in range(int(first), int(last) + 1)]


EXPECTED = [
    *rows("ID", "1-30"),
    *rows("X5", "1-45"),
    *rows("TB", "1-27"),
    *rows("EP", "1 3-31"),  # the second row of these two binds operators only
    *rows("WA", "1 3-74"),
    *(f"P{number}" for number in range(1, 17)),
]
WRITTEN = [match.groups() for match in TABLE_ROW.finditer((ROOT / "docs/standards.md").read_text())]


@cache
def functions(path: Path) -> set[str]:
    """The names of all functions of a file, those in classes too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_is_there_exactly_once_and_in_order():
    assert [row for row, _, _ in WRITTEN] == EXPECTED


@pytest.mark.parametrize(("row", "modules", "tests"), WRITTEN, ids=[row for row, _, _ in WRITTEN])
def test_a_row_names_modules_and_tests_that_exist_or_is_open(row: str, modules: str, tests: str):
    for module in re.findall(r"`([^`]+)`", modules):
        assert (ROOT / module).is_file(), f"{row} names {module}"
    named = re.findall(r"`([^`:]+)::([^`]+)`", tests)
    for path, function in named:
        assert function in functions(ROOT / path), f"{row} names {path}::{function}"
    assert named or tests.startswith("open"), f"{row} has no test and is not open"
