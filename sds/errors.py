"""All that this package raises. Types exist only where someone catches them."""


class SDSError(Exception):
    """Root of everything that the streams package raises."""


class UnusableSecret(SDSError):  # noqa: N818 - named for what it is
    """A secret would harm the proxy that loads it, so it is not sent (facts/spiffe.md 4.6 rule 3)."""


class NotAuthorized(SDSError):  # noqa: N818 - the field's word
    """The caller has no identity here. The text says what the gate saw and what was missing."""
