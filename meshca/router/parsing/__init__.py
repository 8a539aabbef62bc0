"""From text to `meshca.router.objects`, and to what is wrong with it."""

from meshca.router.parsing.kinds import Parser

__all__ = ["Parser"]
