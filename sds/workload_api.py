"""The SPIFFE Workload API, its X.509 half (WA-*); the calls of the other profiles answer UNIMPLEMENTED (WA-56, EP-31).

Rules:
- Each message is the full state, written only when that changed; what is absent is redacted (WA-07 to WA-09, WA-14).
- A trust domain without authorities is left out; without own authorities there is no message at all but UNAVAILABLE (D-16).
- Before each message it is asked again whether the caller still runs and is still entitled; else PERMISSION_DENIED (WA-28, WA-74).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServicerContext

from sds.caller import Caller
from sds.errors import UNCOVERED, NotAuthorized, SDSError
from sds.gate import Identify
from sds.log_limit import LogLimit
from sds.observe import Observer
from sds.proto import workload_pb2 as pb
from sds.provider import Grants, Identity, Proof, Provider, Subscription
from spiffe.bundle import Bundle

SERVICE = "SpiffeWorkloadAPI"
_OTHER_PROFILES = ("FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID", "FetchWITSVID", "FetchWITBundles")

logger = logging.getLogger(__name__)

_Compose = Callable[[Grants, datetime], tuple[Message, Proof]]
_Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"


class NotYet(SDSError):  # noqa: N818 - what it says
    """There is nothing to send at the moment, but there may be later: UNAVAILABLE."""


def x509_svids(grants: Grants, now: datetime) -> tuple[pb.X509SVIDResponse, Proof]:
    """Return the X509SVIDResponse for these grants and what a caller holds that was sent it. Raises NotAuthorized, NotYet."""
    own, federated = _bundles(grants)
    identities = [each for each in grants.identities if each.svid.not_after > now]
    if not identities:
        raise NotYet("no X.509-SVID for this caller is valid now")
    svids = [_svid(each, hint, own) for each, hint in zip(identities, _unique_hints(identities), strict=True)]
    message = pb.X509SVIDResponse(svids=svids, federated_bundles=_ders(federated))
    return message, Proof(bundle=own.digest, serials=frozenset(each.svid.serial for each in identities))


def x509_bundles(grants: Grants, _: datetime) -> tuple[pb.X509BundlesResponse, Proof]:
    """Return the X509BundlesResponse for these grants, likewise. Raises NotAuthorized, NotYet."""
    own, federated = _bundles(grants)
    return pb.X509BundlesResponse(bundles=_ders([own, *federated])), Proof(bundle=own.digest)


def _bundles(grants: Grants) -> tuple[Bundle, list[Bundle]]:
    """Return the own bundle (WA-32) and those federated with, all with authorities."""
    if grants.denied or grants.cut_off:
        raise NotAuthorized(grants.denied or "the entry of this caller was deleted", told=UNCOVERED)
    if grants.pending:
        raise NotYet("the first X.509-SVID for this caller is still being issued")
    own = grants.bundles.get(grants.trust_domain)
    if own is None or not own.x509_authorities:
        raise NotYet(f"there is no bundle for {grants.trust_domain} yet")
    return own, [each for each in grants.bundles.values() if each is not own and each.x509_authorities]


def _svid(identity: Identity, hint: str, own: Bundle) -> pb.X509SVID:
    return pb.X509SVID(
        spiffe_id=str(identity.svid.spiffe_id),
        x509_svid=identity.svid.chain_der(),
        x509_svid_key=identity.svid.key_der(),
        bundle=own.to_der(),
        hint=hint,
    )


def _unique_hints(identities: Iterable[Identity]) -> list[str]:
    """WA-26: the first with a hint keeps it."""
    hints: list[str] = []
    for identity in identities:
        hints.append("" if identity.hint in hints else identity.hint)
    return hints


def _ders(bundles: Iterable[Bundle]) -> dict[str, bytes]:
    return {str(bundle.trust_domain.id): bundle.to_der() for bundle in bundles}  # WA-22


class WorkloadAPI:
    """The service's calls. `service` makes what is added to a server."""

    def __init__(
        self,
        *,
        provider: Provider,
        identify: Identify,
        now: Callable[[], datetime],
        observer: Observer,
        patience: float,
    ) -> None:
        """`patience`: how many seconds a new caller waits for its first SVID."""
        self._provider = provider
        self._identify = identify
        self._now = now
        self._observer = observer
        self._patience = patience
        self._log = LogLimit(logger)

    def service(self) -> _Service:
        """Return the service, to be added to a server."""
        methods = dict.fromkeys(_OTHER_PROFILES, grpc.stream_stream_rpc_method_handler(_unimplemented))
        for name, request, compose in (
            ("FetchX509SVID", pb.X509SVIDRequest, x509_svids),
            ("FetchX509Bundles", pb.X509BundlesRequest, x509_bundles),
        ):
            methods[name] = grpc.unary_stream_rpc_method_handler(partial(self._serve, request, compose))
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _serve(
        self, kind: type[Message], compose: _Compose, request: bytes, context: ServicerContext[Any, Any]
    ) -> None:
        """Serve one call to its end, and turn the reason for that into a status."""
        await _check_request(kind, request, context)
        self._observer.stream_opened("workload_api")
        caller = None
        try:
            caller = self._identify(context)
            async with self._provider.subscribe(caller) as subscription:
                await self._follow(caller, subscription, compose, context)
        except NotAuthorized as reason:
            self._observer.denied("workload_api")
            uid, peer = (None, context.peer()) if caller is None else (caller.uid, str(caller))
            self._log.warning("caller has no identity", kind=uid, peer=peer, reason=str(reason))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason.told)
        except NotYet as reason:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(reason))
        finally:
            self._observer.stream_closed("workload_api")

    async def _follow(
        self, caller: Caller, subscription: Subscription, compose: _Compose, context: ServicerContext[Any, Any]
    ) -> None:
        """Write the state now, and whenever it has changed."""
        await self._first_svid(subscription)
        seen, written = -1, b""
        while True:
            seen = await subscription.grants.newer(seen)
            message, proof = compose(subscription.grants.value, self._now())
            if not caller.alive():
                raise NotAuthorized(f"{caller} has ended")
            content = message.SerializeToString(deterministic=True)
            if (digest := sha256(content).digest()) == written:
                continue
            await context.write(content)
            written = digest
            self._observer.pushed("workload_api")
            subscription.delivered(proof)

    async def _first_svid(self, subscription: Subscription) -> None:
        """Wait while it is being issued, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while subscription.grants.value.pending:
                    await subscription.grants.newer(subscription.grants.version)


async def _check_request(kind: type[Message], request: bytes, context: ServicerContext[Any, Any]) -> None:
    """End a call whose request can not be read: it says nothing, but it must be one."""
    try:
        kind.FromString(request)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"this is no {kind.DESCRIPTOR.name}")


async def _unimplemented(_: object, context: ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only the X.509 calls of the Workload API are served here")
