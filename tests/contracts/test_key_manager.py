import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.errors import KeyGone
from meshca.model import AuthorityKey, KeyType
from meshca.ports import KeyManager
from tests.contracts.conftest import KeyHome


def shape(key: AuthorityKey) -> str:
    return f"rsa-{key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else key.curve.name


@pytest.mark.parametrize(
    ("key_type", "expected"),
    [
        (KeyType.EC_P256, "secp256r1"),
        (KeyType.EC_P384, "secp384r1"),
        (KeyType.RSA_2048, "rsa-2048"),
        (KeyType.RSA_3072, "rsa-3072"),
        (KeyType.RSA_4096, "rsa-4096"),
    ],
)
def test_a_generated_key_has_the_type_asked_for_and_is_named_by_its_subject_key_identifier(
    keys: KeyManager, key_type: KeyType, expected: str
):
    key_id, key = keys.generate(key_type)

    assert shape(key) == expected
    assert key_id == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    assert keys.key_ids() == {key_id}


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.RSA_2048])
def test_a_loaded_key_signs_as_the_generated_one(key_home: KeyHome, key_type: KeyType):
    keys = key_home.open()
    key_id, key = keys.generate(key_type)

    loaded = (key_home.open() if key_home.persists else keys).load(key_id)

    if isinstance(loaded, rsa.RSAPrivateKey):
        signature = loaded.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
    else:
        key.public_key().verify(
            loaded.sign(b"message", ec.ECDSA(hashes.SHA256())), b"message", ec.ECDSA(hashes.SHA256())
        )


@pytest.mark.parametrize("key_id", ["0" * 40, "", "../../etc/passwd", "A" * 40, "\0", "é" * 40])
def test_a_key_that_is_not_there_is_gone_and_deleting_it_is_no_error(keys: KeyManager, key_id: str):
    kept, _ = keys.generate(KeyType.EC_P256)

    keys.delete(key_id)

    with pytest.raises(KeyGone):
        keys.load(key_id)
    assert keys.key_ids() == {kept}


def test_a_deleted_key_is_gone_for_good(key_home: KeyHome):
    keys = key_home.open()
    key_id, _ = keys.generate(KeyType.EC_P256)
    other, _ = keys.generate(KeyType.EC_P256)

    keys.delete(key_id)

    with pytest.raises(KeyGone, match=key_id):
        keys.load(key_id)
    assert keys.key_ids() == {other}
    if key_home.persists:
        assert key_home.open().key_ids() == {other}


def test_a_key_that_is_set_aside_is_found_no_more(key_home: KeyHome):
    keys = key_home.open()
    key_id, _ = keys.generate(KeyType.EC_P256)
    other, _ = keys.generate(KeyType.EC_P256)

    for name in (key_id, key_id, "0" * 40, "../../etc/passwd"):
        keys.set_aside(name)

    with pytest.raises(KeyGone, match=key_id):
        keys.load(key_id)
    assert keys.key_ids() == {other}
    if key_home.persists:
        assert key_home.open().key_ids() == {other}


def test_threads_generate_load_and_delete_at_once(keys: KeyManager):
    def work(_: int) -> str:
        deleted, _key = keys.generate(KeyType.EC_P256)
        kept, key = keys.generate(KeyType.EC_P256)
        keys.delete(deleted)
        assert keys.load(kept).public_key() == key.public_key()
        assert kept in keys.key_ids()
        return kept

    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(work, range(24)))

    assert keys.key_ids() == kept


def test_no_text_and_no_pickle_shows_a_key(keys: KeyManager):
    _, key = keys.generate(KeyType.EC_P256)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    secrets = [*pem.splitlines(), str(key.private_numbers().private_value), "correct horse"]

    assert not [secret for secret in secrets for shown in (repr, str) if secret in shown(keys) + shown(key)]
    for secret_holder in (keys, key):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(secret_holder)
