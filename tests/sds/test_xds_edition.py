"""Editions: what changed since the one before, for whoever has that one."""

import gc

from hypothesis import given
from hypothesis import strategies as st

from sds.xds.delta import DeltaRequest, DeltaSession
from sds.xds.edition import Edition, differing
from sds.xds.resource import CLUSTER, Snapshot
from tests.support.xds import resource

CONTENTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2).map(str))
NEWS = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 2).map(str))


def edition(**contents: str) -> Edition:
    return Edition({name: resource(name, content) for name, content in contents.items()})


@given(CONTENTS, NEWS)
def test_an_edition_is_the_one_before_but_for_what_is_new_and_knows_that(
    contents: dict[str, str], news: dict[str, str]
):
    before = edition(**contents)
    after = before.following({name: each and resource(name, each) for name, each in news.items()})
    expected = {name: each for name, each in {**contents, **news}.items() if each is not None}
    assert after == edition(**expected)
    assert (after is before) == (expected == contents)
    assert differing(before, after) == differing(dict(before), dict(after))
    assert all(after[name] is each for name, each in before.items() if after.get(name) == each)


def test_who_has_the_edition_before_is_told_and_who_has_another_compares():
    first = edition(a="1", b="1")
    second = first.following({"a": resource("a", "2")})
    third = second.following({"b": resource("b", "2")})
    assert differing(second, third) is third.changed
    assert third.changed == {"b"}
    assert differing(first, third) == {"a", "b"}
    assert differing(third, third) == set()


def test_an_edition_keeps_none_of_those_before_it():
    first = edition(a="1")
    second = first.following({"a": resource("a", "2")})
    assert second.before is not None
    del first
    gc.collect()
    assert second.before() is None
    assert differing(edition(a="2"), second) == {"a"}


class Unread(Edition):
    """One that nobody may go through."""

    def items(self) -> object:  # type: ignore[override]
        raise AssertionError("all of it was compared")


def test_a_session_compares_nothing_that_an_edition_knows():
    session = DeltaSession(rules=(CLUSTER,))
    session.on_request(DeltaRequest(type_url=CLUSTER.type_url))
    first = edition(a="1", b="1")
    session.on_snapshot(Snapshot(type_url=CLUSTER.type_url, resources=first))
    sent = session.next_response()
    assert sent is not None
    session.on_request(DeltaRequest(type_url=CLUSTER.type_url, nonce=sent.nonce))
    second = Unread({**first, "a": resource("a", "2")}, before=first, changed={"a"})
    session.on_snapshot(Snapshot(type_url=CLUSTER.type_url, resources=second))
    again = session.next_response()
    assert again is not None
    assert again.resources == (resource("a", "2"),)
