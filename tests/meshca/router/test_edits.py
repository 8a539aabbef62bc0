import difflib
import json
from dataclasses import replace

import pytest
from hypothesis import given

from meshca.errors import InvalidInput
from meshca.router.canary.edits import edited, found
from meshca.router.canary.ramp import Canary, Progress, Ramp
from meshca.router.mesh.objects import Origin
from tests.support.ramps import NOW, PROGRESSES, RAMPS, ROUTE, canary
from tests.support.routing import origin

WHERE: Origin = origin("VirtualService", "api-server")


def changes(before: str, after: str) -> list[str]:
    """The lines that went (-) and came (+)."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


def test_a_ramp_comes_into_a_text_and_not_one_other_character_changes():
    first = edited(ROUTE, WHERE, canary(0))
    assert changes(ROUTE, first) == [
        "+   annotations:",
        '+     meshca.dev/canary: "to=v2 step=5 every=1m max-5xx=1%"',
        '+     meshca.dev/canary-state: "phase=running start=0 weight=0 since=2026-11-27T06:40:00.000Z"',
        '+     meshca.dev/canary-reason: ""',
    ]
    second = edited(first, WHERE, canary(5))
    assert changes(first, second) == [
        '-     meshca.dev/canary-state: "phase=running start=0 weight=0 since=2026-11-27T06:40:00.000Z"',
        '+     meshca.dev/canary-state: "phase=running start=0 weight=5 since=2026-11-27T06:40:00.000Z"',
        "-       weight: 100   # the old one",
        "+       weight: 95   # the old one",
        "-       weight: 0",
        "+       weight: 5",
    ]


JSON = json.dumps(
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "api-server"},
        "spec": {
            "hosts": ["a"],
            "http": [
                {
                    "route": [
                        {"destination": {"host": "a", "subset": "v1"}, "weight": 100},
                        {"destination": {"host": "a", "subset": "v2"}, "weight": 0},
                    ]
                }
            ],
        },
    }
)


def with_annotations(text: str) -> str:
    return ROUTE.replace("metadata:\n", f"metadata:\n  annotations:{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        ROUTE.replace("\n", "\r\n"),
        "\ufeff" + ROUTE,
        "# é\n---\nkind: [\n---\n" + ROUTE + "---\napiVersion: v1\nkind: Other\n",
        ROUTE.replace("metadata:\n  # ours\n  name: api-server", "metadata: {name: api-server}"),
        with_annotations("\n    # theirs\n    theirs: 'é: yes'"),
        with_annotations(' {theirs: "yes"}'),
        with_annotations(" {}"),
        with_annotations(""),
        with_annotations(" ~"),
        with_annotations("\n    meshca.dev/canary: |\n      to=v2 step=9 every=9s max-5xx=9%\n    z: a"),
        with_annotations("\n    meshca.dev/canary: >-\n      to=v2 step=9\n      every=9s max-5xx=9%"),
        JSON,
    ],
    ids=["CRLF", "BOM", "others", "flow", "comment", "in flow", "empty", "nothing", "null", "block", "folded", "JSON"],
)
def test_however_it_is_written_all_else_stays(text: str):
    made = edited(text, WHERE, canary(5))
    there = found(made, WHERE)
    assert there
    assert there.canary == canary(5)
    assert edited(made, WHERE, canary(5)) == made
    assert edited(edited(made, WHERE, canary(0)), WHERE, canary(5)) == made
    assert made.count("\r\n") == (made.count("\n") if "\r\n" in text else 0)
    untouched = ("# How", "# ours", "and nobody else's", "# the old one", "kind: [", "kind: Other", "theirs", "# é")
    assert [word for word in untouched if (word in text) != (word in made)] == []


@given(RAMPS, PROGRESSES)
def test_whatever_is_written_is_read_back(ramp: Ramp, progress: Progress):
    wanted = Canary(ramp=replace(ramp, to="v2"), place=canary().place, weight=progress.weight, progress=progress)
    there = found(edited(ROUTE, WHERE, wanted), WHERE)
    assert there
    assert there.canary == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROUTE.replace("name: api-server", "name: other"), "is not there, or is broken"),
        (ROUTE.replace("kind: VirtualService", "kind: ["), "is not there, or is broken"),
        (ROUTE.replace("      weight: 0\n", ""), r"route\[1\] has no weight"),
        (ROUTE + "...\n" + ROUTE.replace("name: api-server", "name: other"), "shares its part of the file"),
    ],
)
def test_what_can_not_be_changed_safely_is_refused(text: str, said: str):
    with pytest.raises(InvalidInput, match=said):
        edited(text, WHERE, canary(5))


def test_time_is_kept_to_the_millisecond():
    wanted = canary(5).begun(NOW.replace(microsecond=123_456))
    there = found(edited(ROUTE, WHERE, wanted), WHERE)
    assert there
    assert there.canary
    assert there.canary.progress
    assert there.canary.progress.since == NOW.replace(microsecond=123_000)
