"""From text to `meshca.router.objects`, and to what is wrong with it."""

from meshca.router.parsing.kinds import parse

__all__ = ["parse"]
