"""All that this package raises. Types exist only where someone catches them."""


class SpiffeError(Exception):
    """Root of everything that the standards package raises."""


class InvalidID(SpiffeError):  # noqa: N818 - named as the field names it
    """A string is not a trust domain name or a SPIFFE ID (checklist ID-*)."""


class InvalidSVID(SpiffeError):  # noqa: N818 - same
    """A document is not an X.509-SVID, or its key does not fit (checklist X5-*)."""


class InvalidBundle(SpiffeError):  # noqa: N818 - same
    """A document is not a SPIFFE bundle (checklist TB-*)."""


class VerificationFailed(SpiffeError):  # noqa: N818 - same
    """A certificate chain does not prove the identity that it claims. `rule` is the checklist id that failed."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
