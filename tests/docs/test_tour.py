"""The documents name only what exists: each `file:function` of the code, each link, each heading that a link points at."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOUR = (ROOT / "docs/tour.md").read_text()

MENTION = re.compile(r"`([\w/]+\.py):([\w.]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def names(path: Path) -> set[str]:
    """All functions and classes of a module, those within classes as `Class.name`."""
    return {".".join(parts) for parts in _paths(ast.parse(path.read_text()), ())}


def _paths(node: ast.AST, outer: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += [(*outer, child.name), *_paths(child, (*outer, child.name))]
    return found


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = HEADING.findall(CODE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_mention_of_the_code_names_what_is_there(document: Path):
    gone = [
        f"{file}:{name}"
        for file, name in MENTION.findall(document.read_text())
        if not (ROOT / file).is_file() or name not in names(ROOT / file)
    ]
    assert gone == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(document: Path):
    dead = []
    for link in LINK.findall(CODE.sub("", document.read_text())):
        path, _, anchor = link.partition("#")
        target = document if not path else document.parent / path
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    assert dead == []


def test_the_tour_has_nine_steps_and_each_names_code():
    steps = re.split(r"^## (\d)\. .+$", TOUR, flags=re.MULTILINE)[1:]
    assert steps[::2] == [str(number) for number in range(1, 10)]
    assert all(MENTION.search(text) for text in steps[1::2])
