r"""The guards against certificates with several identities. Pure.

Envoy matches any URI SAN, any DNS name and the subject, but takes the trust domain that the chain is judged by from the first URI SAN.
So where a listener trusts a federated CA, that CA could show one of our IDs beside its own, as a second URI SAN or as a DNS name, and
pass for it (tried with Envoy 1.40).

Rules:
- For Envoy: `several_identities` refuses any certificate that names more than one ID, as verifiers must (X5-02). Partners can not pass
  for each other either.
- For gRPC, which lacks the matching API: `mixed_identities` protects the names of our trust domain. Envoy takes its long expression only
  for the shortest trust domains (see re2).
- Expressions end in `\C`: a line end or a broken byte in an ID must not hide it.
"""

import re

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.rbac.v3.rbac_pb2 import Action as RBACAction
from envoy.extensions.matching.common_inputs.ssl.v3.ssl_inputs_pb2 import DnsSanInput, UriSanInput
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import regex_pb2 as xds_regex
from xds.type.matcher.v3 import string_pb2 as xds_string
from xds.type.matcher.v3.matcher_pb2 import Matcher

from spiffe.id import SCHEME, TrustDomain

_Predicate = Matcher.MatcherList.Predicate


def mixed_identities(trust_domain: TrustDomain) -> Policy:
    """The policy, for a DENY filter, that matches a peer whose certificate names an ID of this trust domain and one of another.

    Our ID may stand among the DNS names, which are matched as well. DNS names that look like hosts do no harm.
    """
    ours = StringMatcher(prefix=f"{SCHEME}{trust_domain}/")
    other = StringMatcher(safe_regex=RegexMatcher(regex=SCHEME + _anything_but(f"{trust_domain}/")))
    both = [Principal(authenticated=Principal.Authenticated(principal_name=each)) for each in (ours, other)]
    return Policy(permissions=[Permission(any=True)], principals=[Principal(and_ids=Principal.Set(ids=both))])


def several_identities() -> Matcher:
    """The match tree, for an RBAC filter of Envoy, that denies a peer whose certificate has several URI SANs, or an ID among its DNS names.

    Envoy joins URI SANs with commas, which are legal in none of ours: one with a comma is refused too.
    """
    several = [_matches(UriSanInput(), "\\C*,\\C*"), _matches(DnsSanInput(), f"\\C*{SCHEME}\\C*")]
    denied = Matcher.MatcherList.FieldMatcher(
        predicate=_Predicate(or_matcher=_Predicate.PredicateList(predicate=several)),
        on_match=_action("several-identities", RBAC.DENY),
    )
    return Matcher(matcher_list=Matcher.MatcherList(matchers=[denied]), on_no_match=_action("one-identity", RBAC.ALLOW))


def _anything_but(prefix: str) -> str:
    """An expression for all texts without that prefix: RE2 does not look ahead, so they leave it at one of its characters."""
    rest = ""
    for character in reversed(prefix):
        go_on = f"|{re.escape(character)}{rest}" if rest else ""
        rest = f"(?:[^{re.escape(character)}]\\C*{go_on})?"
    return rest


def _matches(source: Message, expression: str) -> Message:
    matcher = xds_string.StringMatcher(
        safe_regex=xds_regex.RegexMatcher(google_re2=xds_regex.RegexMatcher.GoogleRE2(), regex=expression)
    )
    single = _Predicate.SinglePredicate(input=_extension(source), value_match=matcher)
    predicate: Message = _Predicate(single_predicate=single)
    return predicate


def _action(name: str, action: int) -> Matcher.OnMatch:
    return Matcher.OnMatch(action=_extension(RBACAction(name=name, action=action)))


def _extension(message: Message) -> TypedExtensionConfig:
    packed = Any()
    packed.Pack(message, deterministic=True)
    return TypedExtensionConfig(name=message.DESCRIPTOR.full_name, typed_config=packed)
