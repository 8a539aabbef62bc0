import pytest

from spiffe import X509SVID, Bundle, BundleSet, bundle_json, verify
from tests.support import pki
from tests.vectors.regenerate import HERE, TRUST_DOMAIN, corpus, fixed_key, golden


@pytest.mark.parametrize(("name", "content"), golden().items(), ids=golden())
def test_golden_files_are_made_the_same_today(name: str, content: bytes):
    assert (HERE / name).read_bytes() == content, "a format changed; if on purpose: python -m tests.vectors.regenerate"


def test_the_seeds_of_the_fuzz_corpus_are_all_there():
    assert {name: (HERE / "fuzz" / name).read_bytes() for name in corpus()} == corpus()


def test_golden_files_are_read_as_what_they_are():
    bundle = bundle_json.parse(TRUST_DOMAIN, (HERE / "bundle.json").read_bytes())
    key = fixed_key(1003)
    from_der = X509SVID.from_der((HERE / "chain.der").read_bytes(), pki.key_der(key))
    from_pem = X509SVID.from_pem((HERE / "chain.pem").read_bytes(), pki.key_pem(key))

    assert from_der == from_pem
    assert from_der.serial == 3
    assert bundle == Bundle(
        trust_domain=TRUST_DOMAIN,
        x509_authorities=Bundle.from_der(TRUST_DOMAIN, (HERE / "root.der").read_bytes()).x509_authorities,
        sequence=7,
    )
    assert bundle.digest == "6594da5aaa49e3b9a2b16ab76a08928a2c4676eeb8d219ca661cc656da8f19bc"
    assert str(verify(from_der.chain, BundleSet([bundle]), pki.NOW)) == "spiffe://example.org/web"
