import pytest

from spiffe import (
    InvalidID,
    Matcher,
    SpiffeID,
    TrustDomain,
    VerificationFailed,
    match_id,
    match_member_of,
    match_one_of,
    unsafe_match_any,
)

WEB = SpiffeID.parse("spiffe://example.org/web")
API = SpiffeID.parse("spiffe://example.org/api")
OTHER = SpiffeID.parse("spiffe://other.org/web")


@pytest.mark.parametrize(
    ("matcher", "accepted", "refused"),
    [
        pytest.param(match_id(WEB), [WEB], [API, OTHER, WEB.trust_domain.id], id="match_id"),
        pytest.param(match_id(WEB), [], [SpiffeID.parse("spiffe://example.org/WEB")], id="ID-22 path keeps case"),
        pytest.param(match_one_of([WEB, API]), [WEB, API], [OTHER], id="match_one_of"),
        pytest.param(match_member_of(TrustDomain("example.org")), [WEB, API], [OTHER], id="match_member_of"),
        pytest.param(unsafe_match_any(), [WEB, API, OTHER], [], id="unsafe_match_any"),
    ],
)
def test_a_matcher_accepts_its_own_and_refuses_the_others(
    matcher: Matcher, accepted: list[SpiffeID], refused: list[SpiffeID]
):
    for spiffe_id in accepted:
        matcher(spiffe_id)
    for spiffe_id in refused:
        with pytest.raises(VerificationFailed, match=str(spiffe_id)):
            matcher(spiffe_id)


def test_an_empty_list_matches_nobody_and_is_refused_as_a_mistake():
    with pytest.raises(InvalidID, match="list is empty"):
        match_one_of([])
