"""What the Envoys say they use, and how often it changed: all from their admin interface, nothing from the server that sent it."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509

from meshca.demo.envoys import Envoy
from spiffe.x509svid import parse_pem_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """What one Envoy authenticates with, and judges its peers by. Serials are hex; roots are subject key ids."""

    spiffe_id: str = ""
    serial: str = ""
    not_after: datetime | None = None
    intermediate: str = ""
    roots: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Changes:
    """How often each kind of credential of one Envoy was replaced by another."""

    now: InUse = field(default_factory=InUse)
    leaves: int = 0
    intermediates: int = 0
    roots: int = 0

    def see(self, seen: InUse) -> None:
        """Compare with what was seen before. A root counts as rotated when one that was trusted no longer is."""
        before, self.now = self.now, seen
        if before.serial:
            self.leaves += seen.serial != before.serial
            self.intermediates += seen.intermediate != before.intermediate
            self.roots += len(before.roots - seen.roots)


async def look(envoy: Envoy) -> InUse:
    """Ask an Envoy. The leaf is what `/certs` has in use; its chain and the roots are looked up among the secrets that it holds."""
    leaves = await envoy.leaves()
    secrets = await _secrets(envoy)
    if not leaves:
        return InUse()
    leaf = leaves[0]
    intermediate = next((chain[1] for chain in _chains(secrets) if f"{chain[0].serial_number:x}" == leaf.serial), None)
    return InUse(
        spiffe_id=leaf.uris[0],
        serial=leaf.serial,
        not_after=leaf.not_after,
        intermediate=key_id(intermediate) if intermediate else "",
        roots=frozenset(key_id(root) for root in _roots(secrets)),
    )


def key_id(certificate: x509.Certificate) -> str:
    """The subject key identifier, as `meshca authority list` shows it."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


async def _secrets(envoy: Envoy) -> list[dict[str, Any]]:
    page = await envoy.json("/config_dump?resource=dynamic_active_secrets")
    return [entry["secret"] for entry in page.get("configs", [])]


def _chains(secrets: Iterable[dict[str, Any]]) -> Iterable[tuple[x509.Certificate, ...]]:
    for secret in secrets:
        if "tls_certificate" in secret:
            yield parse_pem_chain(_inline(secret["tls_certificate"]["certificate_chain"]))


def _roots(secrets: Iterable[dict[str, Any]]) -> Iterable[x509.Certificate]:
    for secret in secrets:
        context = secret.get("validation_context", {})
        validator = context.get("custom_validator_config", {}).get("typed_config", {})
        for domain in validator.get("trust_domains", []):
            yield from parse_pem_chain(_inline(domain["trust_bundle"]))


def _inline(source: dict[str, str]) -> bytes:
    return base64.b64decode(source["inline_bytes"]) if "inline_bytes" in source else source["inline_string"].encode()
