"""The guarded canary of a VirtualService: its annotations, and which of its rules they mean. Pure.

Rules: an annotation that can not be read is a problem, as with all of ours. Rules that a ramp does not fit are none: whoever takes the new
version out of a route in a hurry must not be held up by an annotation. Then the ramp takes no part, and a warning says why.
"""

from collections.abc import Sequence
from dataclasses import replace

from meshca.errors import InvalidInput
from meshca.router.canary.ramp import WHOLE, Canary, Place, Ramp, read_progress, read_ramp
from meshca.router.mesh.objects import HTTPRule
from meshca.router.parsing.envelope import Envelope
from meshca.router.parsing.scalars import text, text_as

CANARY = "meshca.dev/canary"
STATE = "meshca.dev/canary-state"
REASON = "meshca.dev/canary-reason"


def canary(envelope: Envelope, rules: Sequence[HTTPRule]) -> Canary | None:
    """The ramp that is asked for, if these rules can be ramped."""
    annotations = envelope.annotations
    ramp = annotations.optional(CANARY, text_as(read_ramp))
    reason = annotations.optional(REASON, text) or ""
    progress = annotations.optional(STATE, text_as(lambda written: read_progress(written, reason)))
    if ramp is None:
        return None
    try:
        return replace(to_begin(rules, ramp), progress=progress)
    except InvalidInput as error:
        annotations.warn(CANARY, f"the ramp takes no part: {error}")
        return None


def to_begin(rules: Sequence[HTTPRule], ramp: Ramp) -> Canary:
    """This ramp, from the weights that are written there. Raises InvalidInput with what is in the way."""
    place = _place(rules, ramp.to)
    return Canary(ramp=ramp, place=place, weight=rules[place.rule].route[place.to].weight or 0)


def _place(rules: Sequence[HTTPRule], to: str) -> Place:
    """Where the subset `to` has a share that can be ramped."""
    found = [index for index, rule in enumerate(rules) if any(each.destination.subset == to for each in rule.route)]
    if not found:
        raise InvalidInput(f"no rule routes to subset {to!r}: write it as second destination, with `weight: 0`")
    if len(found) > 1:
        raise InvalidInput(f"{' and '.join(rules[index].where for index in found)} route to subset {to!r}: say it once")
    rule = rules[found[0]]
    subsets = [each.destination.subset for each in rule.route]
    weights = [each.weight or 0 for each in rule.route]
    if len(subsets) != 2 or subsets.count(to) != 1:  # noqa: PLR2004 - the old version and the new
        raise InvalidInput(f"{rule.where}.route must have two destinations, and one of them subset {to!r}")
    if sum(weights) != WHOLE:
        raise InvalidInput(f"the weights of {rule.where}.route add up to {sum(weights)}, not to {WHOLE}")
    return Place(rule=found[0], to=subsets.index(to))
