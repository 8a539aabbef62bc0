"""How often garbage is looked for. A process that serves makes much that stays, and little garbage of the kind that only a search finds."""

import gc

_COLLECT_AFTER = 10_000, 20, 50
"""Objects made until the young are looked at, and rounds until the older are. By Python's own 700, each chunk of leaves would be
looked at a dozen times while it is made, and so would what a router knows of each proxy; none of it is garbage."""


def settle_heap() -> None:
    """Once all is made that stays: let no garbage collection look at it again, and each hold up everybody for less, and less often."""
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
