"""What `entry apply` does with what is there: each entry only by its own source, and by hand only when told so."""

from typing import Any

import pytest

from meshca.errors import InvalidInput, Refused
from meshca.server.applying import Applied, plan_apply
from tests.support.values import entry

HAND, GIT = entry("hand"), entry("git", source="git")


def paths(applied: Applied) -> dict[str, list[str]]:
    kinds = {kind: getattr(applied, kind) for kind in ("created", "updated", "deleted", "unchanged")}
    return {kind: [f"{each.id} of {each.source!r}" for each in entries] for kind, entries in kinds.items() if entries}


def test_what_is_there_changes_nothing_whoever_applied_it():
    applied = plan_apply([HAND, GIT], [HAND, GIT], "apply")
    assert paths(applied) == {"unchanged": ["hand of ''", "git of 'git'"]}


def test_entries_belong_to_the_source_that_they_name_and_else_to_the_one_that_is_given():
    applied = plan_apply([], [HAND, GIT], "apply")
    assert paths(applied) == {"created": ["hand of 'apply'", "git of 'git'"]}


def test_an_entry_made_by_hand_is_changed_only_when_it_is_adopted():
    wanted = entry("hand", hint="new")
    with pytest.raises(Refused, match=r"entry 1: .* is entry hand, made by hand: --adopt takes it under source 'team'"):
        plan_apply([HAND], [wanted], "team")
    assert paths(plan_apply([HAND], [wanted], "team", adopt=True)) == {"updated": ["hand of 'team'"]}
    assert paths(plan_apply([HAND], [HAND], "team", adopt=True)) == {"updated": ["hand of 'team'"]}


@pytest.mark.parametrize("adopt", [False, True])
def test_an_entry_of_another_source_is_refused_even_if_nothing_would_change(adopt: bool):
    with pytest.raises(Refused, match="is entry git of source 'git', not 'team'"):
        plan_apply([GIT], [entry("git")], "team", adopt=adopt)


def test_only_what_is_of_the_source_is_pruned():
    present = [HAND, GIT, entry("a", source="team"), entry("b", source="team")]
    applied = plan_apply(present, [entry("a")], "team", prune=True)
    assert paths(applied) == {"unchanged": ["a of 'team'"], "deleted": ["b of 'team'"]}
    assert paths(plan_apply([HAND, GIT], [], "git", prune=True)) == {"deleted": ["git of 'git'"]}


def test_all_that_is_wrong_is_told_with_its_number_and_a_malformed_file_counts_more_than_a_conflict():
    wanted: list[Any] = [entry("a"), entry("git"), entry("a"), entry("hand", hint="new")]
    with pytest.raises(InvalidInput) as refused:
        plan_apply([HAND, GIT], wanted, "team")
    assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == ["entry 2", "entry 3", "entry 4"]
    with pytest.raises(Refused):
        plan_apply([HAND, GIT], wanted[1:2] + wanted[3:], "team")


def test_no_more_is_told_than_the_status_of_a_call_can_carry():
    names = [f"{'x' * 200}{number}" for number in range(1000)]
    with pytest.raises(Refused) as refused:
        plan_apply([entry(name, source="git") for name in names], [entry(name) for name in names], "team")
    assert str(refused.value).endswith("\nand 980 more")
    assert len(str(refused.value)) < 5000
