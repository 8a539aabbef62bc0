"""YAML that is good, broken or hostile, as trees and faults with line numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.router.parsing.documents import MAX_CHARACTERS, MAX_DEPTH, Document, Sort, Tree, documents, parts


def read(file: str, text: str) -> tuple[Document, ...]:
    return tuple(document for part in parts(file, text) for document in documents(part))


def faults(text: str) -> list[tuple[int, str]]:
    return [tuple(fault) for document in read("a.yaml", text) for fault in document.faults]


def root(text: str) -> Tree:
    (document,) = read("a.yaml", text)
    assert document.faults == ()
    assert document.root
    return document.root


def test_each_key_and_each_value_knows_its_line():
    tree = root("# first\na:\n  b: 1\n  c:\n  - x\n  -\n    y\n")
    below = tree.fields["a"].value
    assert (tree.line, tree.fields["a"].line, below.line) == (2, 2, 3)
    assert (below.fields["b"].line, below.fields["c"].line) == (3, 4)
    assert [item.line for item in below.fields["c"].value.items] == [5, 7]


def test_lines_are_those_of_the_file_in_each_of_its_documents():
    found = read("a.yaml", "---\n# nothing\n---\na: 1\n---\n\nb: 2\n...\n---\nc: 3\n--- {d: 4}\n")
    assert [(document.root.line, *document.root.fields) for document in found if document.root] == [
        (4, "a"),
        (7, "b"),
        (10, "c"),
        (11, "d"),
    ]


@pytest.mark.parametrize(
    "text", ["", "\n", "---", "---\n---\n", "# only\n# comments\n", "~", "null\n", "--- # no\n...\n", "%YAML 1.1\n"]
)
def test_an_empty_document_is_no_document(text: str):
    assert read("a.yaml", text) == ()


def test_a_byte_order_mark_and_a_directive_are_skipped():
    assert root("\ufeff%YAML 1.1\n---\na: 1\n").line == 3


@pytest.mark.parametrize(
    ("written", "sort"),
    [
        ("x", Sort.TEXT),
        ("'1'", Sort.TEXT),
        ("!!str 1", Sort.TEXT),
        ("! x", Sort.TEXT),
        ("2024-01-01", Sort.TEXT),
        ("=", Sort.TEXT),
        ("1", Sort.NUMBER),
        ("1.5", Sort.NUMBER),
        ("017", Sort.NUMBER),
        ("1:30", Sort.NUMBER),
        ("yes", Sort.BOOLEAN),
        ("Off", Sort.BOOLEAN),
        ("null", Sort.NULL),
        ("", Sort.NULL),
        ("[x]", Sort.LIST),
        ("!!seq [x]", Sort.LIST),
        ("{}", Sort.MAPPING),
        ("!!map {}", Sort.MAPPING),
    ],
)
def test_a_value_is_what_yaml_takes_it_for(written: str, sort: Sort):
    assert root(f"a: {written}").fields["a"].value.sort is sort


def test_a_whole_number_is_a_key_as_kubernetes_has_it():
    assert list(root("8080: x").fields) == ["8080"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", (1, "this is not YAML: mapping values are not allowed in this context")),
        ("a:\n  b: 1\n c: 2", (3, "this is not YAML: while parsing a block mapping, did not find expected key")),
        ("a: 'x", (1, "this is not YAML: while scanning a quoted scalar, found unexpected end of stream")),
        ("a: 1\n---\nb: 2\n---\nc: [", (6, "this is not YAML: while parsing a flow node, did not find expected node content")),
        ("a: 1\n...\nb: 2", (3, "this is not YAML: did not find expected <document start>")),
        ("a: 1\n\x01b: 2", (2, "the character U+0001 is not allowed in YAML")),
        ('a: "x\\0"', (1, "the character U+0000 is not read")),
        ("a: 1\nb: 2\na: 3", (3, "the key 'a' is there twice, first on line 1")),
        ("8080: 1\n'8080': 3", (2, "the key '8080' is there twice, first on line 1")),
        ("a: &x 1", (1, "anchors and aliases (here 'x') are not read: write it out")),
        ("a: *x", (1, "anchors and aliases (here 'x') are not read: write it out")),
        ("a: &x [*x]", (1, "anchors and aliases (here 'x') are not read: write it out")),
        ("a:\n  <<: {b: 1}", (2, "merge keys (<<) are not read: write it out")),
        ("a: !!python/name:os.system x", (1, "the tag 'tag:yaml.org,2002:python/name:os.system' is not read")),
        ("a: !mine [1]", (1, "the tag '!mine' is not read")),
        ("a: !!set {x}", (1, "the tag 'tag:yaml.org,2002:set' is not read")),
        ("on: 1", (1, "YAML takes the key 'on' for a boolean: quote it")),
        ("1.5: 1", (1, "YAML takes the key '1.5' for a number: quote it")),
        ("010: 1", (1, "YAML takes the key '010' for a number: quote it")),
        ("~: 1", (1, "YAML takes the key '~' for nothing: quote it")),
        ("? [a]\n: 1", (1, "a key must be text, not a list")),
        ("? {a: b}\n: 1", (1, "a key must be text, not a mapping")),
        ("- a: 1", (1, "expected an object with a kind, found a list")),
        ("<html>", (1, "expected an object with a kind, found text")),
        ("\n\n5", (3, "expected an object with a kind, found a number")),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_document_is_told_with_its_line(text: str, expected: tuple[int, str]):
    assert faults(text)[:1] == [expected]


def test_a_document_that_is_too_long_is_not_even_parsed():
    text = "a: 1\n---\nb: " + "x" * MAX_CHARACTERS
    assert faults(text) == [
        (2, f"a document of {MAX_CHARACTERS + 7} characters is too long: {MAX_CHARACTERS} are read")
    ]


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_depth_is_limited_and_a_flood_of_brackets_costs_nothing(opening: str):
    assert faults("a: " + opening * 100_000) == [(1, f"this is nested more than {MAX_DEPTH} levels deep")]


def test_the_deepest_that_is_read_is_read():
    assert root("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))


def test_a_broken_document_costs_the_others_of_its_file_nothing():
    documents = read("a.yaml", "a: 1\n---\nb: [\n---\nc: &x 1\n---\nd: 1\n")
    assert [sorted(document.root.fields) if document.root else None for document in documents] == [
        ["a"],
        None,
        None,
        ["d"],
    ]


def test_all_faults_of_a_document_are_told():
    assert faults("a: 1\na: 2\nb: !x 1\non: 1\n") == [
        (2, "the key 'a' is there twice, first on line 1"),
        (3, "the tag '!x' is not read"),
        (4, "YAML takes the key 'on' for a boolean: quote it"),
    ]


def test_what_is_shown_of_a_flood_is_short():
    ((_, text),) = faults("a: &" + "x" * 10_000 + " 1")
    assert len(text) < 200


@given(st.text() | st.text(alphabet="abc:-[]{}&*!|>'\"%@`#?, \n\t0", max_size=60))
def test_no_text_whatever_raises(text: str):
    for document in read("a.yaml", text):
        assert isinstance(document, Document)
        assert document.root or document.faults
