"""What an entry may say that is new here: how much, in which words, and which names. Pure.

Beside what `Entry` holds of any entry, one of an older store included: what is refused here may still be there, and is served.
"""

import re
from collections import Counter
from ipaddress import ip_address

from meshca.errors import InvalidInput
from meshca.matching import check_vouched
from meshca.model import RESERVED_DNS_SUFFIXES, Entry

MOST_CHARACTERS = 256
MOST_VALUES = 100

_WILDCARD_OF_ALL = re.compile(r"\*\.[^.]+")


def check_form(entry: Entry) -> None:
    """Raise InvalidInput for what nobody may say of an entry, whatever it is for."""
    for what, words in (("id", entry.id), ("source", entry.source)):
        check_words(what, words)
    if not entry.hint.isprintable():
        raise InvalidInput(f"hint {entry.hint[:80]!r} has characters that can not be printed, such as a line break")
    _check_size(entry)
    for name in entry.dns_names:
        _check_name(name)
    if twice := [name for name, count in Counter(entry.dns_names).items() if count > 1]:
        raise InvalidInput(f"DNS name {twice[0]!r} is there twice")
    for selector in sorted(entry.selectors):
        check_vouched(selector)


def check_words(what: str, words: str, most: int = MOST_CHARACTERS) -> None:
    """Raise InvalidInput for what no list, log or record should have to show."""
    if len(words) > most or not words.isprintable():
        raise InvalidInput(f"{what} {words[:80]!r} is not at most {most} printable characters")


def _check_size(entry: Entry) -> None:
    """Every caller's leaf has all the names, every look at a caller all the selectors, every list and log the words."""
    for what, values in (
        ("selectors", entry.selectors),
        ("DNS names", entry.dns_names),
        ("domains", entry.federates_with),
    ):
        if len(values) > MOST_VALUES:
            raise InvalidInput(f"{entry.spiffe_id} has {len(values)} {what}, the limit is {MOST_VALUES}")


def _check_name(name: str) -> None:
    if _WILDCARD_OF_ALL.fullmatch(name):
        raise InvalidInput(
            f"DNS name {name!r} stands for a whole top-level domain: name at least two labels after the *"
        )
    if f".{name}" in RESERVED_DNS_SUFFIXES:
        raise InvalidInput(f"DNS name {name!r} is reserved: it and *.{name} are for meshca's own servers")
    try:
        ip_address(name)
    except ValueError:
        return
    raise InvalidInput(f"DNS name {name!r} is an IP address: no client looks for one among DNS names")
