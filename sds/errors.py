"""All that this package raises. Types exist only where someone catches them."""


class SDSError(Exception):
    """Root of everything that the streams package raises."""


class UnusableSecret(SDSError):  # noqa: N818 - named for what it is
    """A secret would harm the proxy that loads it, so it is not sent (facts/spiffe.md 4.6 rule 3)."""


UNCOVERED = "no registration entry covers this process; an administrator sees what is missing with `meshca why --pid`"


class NotAuthorized(SDSError):  # noqa: N818 - the field's word
    """The caller has no identity here. The text, for the log, says what the gate saw and what was missing.

    `told` is what the caller may know: others' entries are none of its business.
    """

    def __init__(self, text: str, *, told: str = "") -> None:
        super().__init__(text)
        self.told = told or text


class Unauthenticated(NotAuthorized):
    """What the caller showed does not prove who it is, or does no longer. With another certificate it may."""
