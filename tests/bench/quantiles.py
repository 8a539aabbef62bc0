"""What times come to."""

from collections.abc import Sequence

SHARES = {"p50_ms": 0.5, "p99_ms": 0.99}


def quantiles(seconds: Sequence[float], shares: dict[str, float] = SHARES, digits: int = 2) -> dict[str, float]:
    """The times below which these shares of all lie, in milliseconds, by name."""
    ordered = sorted(seconds)
    at = {name: ordered[min(int(len(ordered) * share), len(ordered) - 1)] for name, share in shares.items()}
    return {name: round(value * 1000, digits) for name, value in at.items()}
