"""An async client of the SPIFFE Workload API, X.509 half: what a workload written in Python needs, and our CLI with it.

Rules:
- A message replaces all that was known; what is absent in it is no longer to be used (WA-12 to WA-14, WA-30).
- A broken message is dropped and the state before it stays (WA-16).
- INVALID_ARGUMENT and UNIMPLEMENTED end the iteration (EP-22, EP-31). After anything else, and after a stream that just ended, the
  client comes back: at once if it had been served, else after a pause that grows and is jittered (WA-06, EP-24, EP-26).
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from sds.endpoint import Endpoint
from sds.errors import SDSError
from sds.proto import workload_pb2 as pb
from sds.provider import Identity
from sds.workload_header import HEADER
from spiffe.bundle import Bundle, BundleSet
from spiffe.errors import SpiffeError
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID

_METADATA = ((HEADER, "true"),)  # EP-07
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else a new try would inherit the pause of the one before
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
_FIRST_PAUSE, _LONGEST_PAUSE, _MOST_DOUBLINGS = 0.1, 10.0, 7

_METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
_FINAL = (StatusCode.INVALID_ARGUMENT, StatusCode.UNIMPLEMENTED)

logger = logging.getLogger(__name__)


class WorkloadAPIError(SDSError):
    """The Workload API refused or cannot be reached. `code` is the gRPC status, None for a message that is broken."""

    def __init__(self, text: str, code: StatusCode | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Context:
    """All that this workload may use at present.

    The first of `identities` is the default (WA-72). With none, `denied` has the reason.
    """

    identities: tuple[Identity, ...] = ()
    bundles: BundleSet = field(default_factory=BundleSet)
    denied: str = ""

    def with_hint(self, hint: str) -> Identity | None:
        """Return the first identity with this hint (WA-27), None if there is none."""
        return next((each for each in self.identities if each.hint == hint), None)


class WorkloadClient:
    """Asks the Workload API at one endpoint. Holds nothing open between calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def fetch_x509(self, *, timeout: float = 10.0) -> X509Context:
        """Return what this workload may use now. Raises WorkloadAPIError, with DEADLINE_EXCEEDED after `timeout` seconds."""
        async with aclosing(self._messages(timeout)) as messages:
            async for content in messages:
                return parse_x509_context(content)
        raise WorkloadAPIError(f"{self._endpoint.target} ended the stream without a message", StatusCode.UNAVAILABLE)

    async def x509_contexts(self) -> AsyncIterator[X509Context]:
        """Yield what this workload may use, now and after each change, for ever; a denial is told once.

        Raises WorkloadAPIError where trying again is vain.
        """
        failures, denied = 0, False
        while True:
            try:
                async with aclosing(self._readable_contexts()) as contexts:
                    async for context in contexts:
                        failures, denied = -1, False
                        yield context
            except WorkloadAPIError as error:
                if error.code in _FINAL:
                    raise
                logger.info("workload api lost", extra={"endpoint": self._endpoint.target, "reason": str(error)})
                if error.code is StatusCode.PERMISSION_DENIED and not denied:
                    denied = True
                    yield X509Context(denied=str(error))  # WA-30
            failures += 1
            await asyncio.sleep(pause_after(failures))

    async def _readable_contexts(self) -> AsyncGenerator[X509Context, None]:
        """Yield the contexts of one stream, without those that are broken (WA-16). Raises WorkloadAPIError when it ends badly."""
        async with aclosing(self._messages(None)) as messages:
            async for content in messages:
                try:
                    context = parse_x509_context(content)
                except WorkloadAPIError as error:
                    logger.warning("message dropped", extra={"endpoint": self._endpoint.target, "reason": str(error)})
                else:
                    yield context

    async def _messages(self, timeout: float | None) -> AsyncGenerator[bytes, None]:
        """Yield the messages of one stream, on a connection of its own. Raises WorkloadAPIError."""
        async with grpc.aio.insecure_channel(self._endpoint.target, options=_OPTIONS) as channel:
            call = channel.unary_stream(_METHOD, None, None)(b"", metadata=_METADATA, timeout=timeout)
            try:
                async for content in call:
                    yield content
            except grpc.aio.AioRpcError as error:
                text = f"Workload API at {self._endpoint.target}: {error.code().name}: {error.details()}"
                raise WorkloadAPIError(text, error.code()) from error


def pause_after(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row; after none just enough to spread many clients."""
    longest = min(_FIRST_PAUSE * 2.0 ** min(failures, _MOST_DOUBLINGS), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - guards nothing


def parse_x509_context(content: bytes) -> X509Context:
    """Read an X509SVIDResponse. Raises WorkloadAPIError if a mandatory field is missing or cannot be read.

    A federated bundle that cannot be read is left out: its trust domain is then not trusted, and the others still are.
    """
    try:
        message = pb.X509SVIDResponse.FromString(content)
        if not message.svids:
            raise WorkloadAPIError("X509SVIDResponse has no svids")
        identities = tuple(_read_identity(each) for each in message.svids)
        bundles = _read_federated(message) | {
            identity.svid.spiffe_id.trust_domain: Bundle.from_der(identity.svid.spiffe_id.trust_domain, each.bundle)
            for identity, each in zip(identities, message.svids, strict=True)
        }
    except (DecodeError, SpiffeError) as error:
        raise WorkloadAPIError(f"X509SVIDResponse cannot be read: {error}") from error
    return X509Context(identities=identities, bundles=BundleSet(bundles.values()))


def _read_identity(message: pb.X509SVID) -> Identity:
    svid = X509SVID.from_der(message.x509_svid, message.x509_svid_key)
    if message.spiffe_id != str(svid.spiffe_id):
        raise WorkloadAPIError(f"X509SVIDResponse says {message.spiffe_id!r} of a certificate for {svid.spiffe_id}")
    return Identity(svid=svid, hint=message.hint)


def _read_federated(message: pb.X509SVIDResponse) -> dict[TrustDomain, Bundle]:
    bundles = {}
    for key, content in message.federated_bundles.items():
        try:
            bundle = Bundle.from_der(TrustDomain.parse(key), content)
        except SpiffeError as error:
            logger.warning("federated bundle dropped", extra={"trust_domain": key, "reason": str(error)})
        else:
            bundles[bundle.trust_domain] = bundle
    return bundles
