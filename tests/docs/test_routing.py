"""The objects in docs/routing.md are good, all together."""

import re
from pathlib import Path

from meshca.router.mesh.state import State, following
from meshca.router.parsing.kinds import Parser
from spiffe.id import TrustDomain

DOCUMENT = Path(__file__).parents[2] / "docs/routing.md"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_all_objects_of_the_document_are_good_together():
    texts = {f"{index}.yaml": text for index, text in enumerate(BLOCK.findall(DOCUMENT.read_text()))}
    state = following(State(), Parser(TrustDomain("mesh.local")).parse(texts))
    assert (state.problems, state.warnings) == ((), ())
    assert {label.partition(" ")[0] for label in state.good} >= {"ServiceEntry", "VirtualService", "Telemetry"}
    assert [each.collector for each in state.table.reporting] == [("otel-collector", 4317, "")]
