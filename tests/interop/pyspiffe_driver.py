"""A workload that is not ours: py-spiffe (and spiffe-tls), run in its own environment and told by lines of JSON what to do.

One command a line, `{"do": name, ...arguments}`; one answer a line, `{"is": value}` or `{"error": {kind, text, code}}`. `fetch` to `dial`
are the same in gospiffe/main.go. The endpoint comes from SPIFFE_ENDPOINT_SOCKET. Imports nothing of this repository.
"""

import base64
import contextlib
import json
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from OpenSSL import SSL
from spiffetls import ListenOptions, dial, listen
from spiffetls.tlsconfig.authorize import authorize_id

from spiffe import SpiffeId, TrustDomain, WorkloadApiClient, X509Bundle, X509BundleSet, X509Source, X509Svid
from spiffe._proto import workload_pb2 as pb

PATIENCE = 10.0
ANSWERS = {
    "FetchX509SVID": pb.X509SVIDResponse,
    "FetchX509Bundles": pb.X509BundlesResponse,
    "FetchJWTSVID": pb.JWTSVIDResponse,
    "FetchJWTBundles": pb.JWTBundlesResponse,
    "ValidateJWTSVID": pb.ValidateJWTSVIDResponse,
}


class Stream:
    """One call made without py-spiffe's parsing, retrying or header: every message as it came, and how it ended."""

    def __init__(self, channel: grpc.Channel, method: str, metadata: list[list[str]]) -> None:
        answer = ANSWERS.get(method, pb.X509SVIDResponse)
        call = channel.unary_stream(
            f"/SpiffeWorkloadAPI/{method}", request_serializer=bytes, response_deserializer=answer.FromString
        )
        self.messages: list[dict[str, Any]] = []
        self.code: int | None = None
        self.text = ""
        self._call = call(b"", metadata=[tuple(pair) for pair in metadata], wait_for_ready=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in self._call:
                shown = MessageToDict(
                    message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                self.messages.append(shown)
        self.text = self._call.details()
        self.code = self._call.code().value[0]


class Driver:
    """The commands. Public methods are what a line may ask for."""

    def __init__(self) -> None:
        self._client = WorkloadApiClient(default_timeout=PATIENCE)
        self._channel = grpc.insecure_channel(self._client.get_spiffe_endpoint_socket())
        self._threads = ThreadPoolExecutor()
        self._source: Future[X509Source] = Future()
        self._updates = 0
        self._streams: list[Stream] = []

    def fetch(self) -> dict[str, Any]:
        """Fetch all SVIDs and all bundles once."""
        context = self._client.fetch_x509_context()
        return material(context.x509_svids, context.x509_bundle_set.bundles)

    def open(self) -> None:
        """Start to keep a source, which retries by itself."""
        self._source = self._threads.submit(X509Source)
        self._source.add_done_callback(lambda made: made.result().subscribe_for_updates(self._count))

    def opened(self, patience: float) -> bool:
        """Whether the source has an SVID, after at most so many seconds."""
        try:
            self._source.result(patience)
        except TimeoutError:
            return False
        return True

    def held(self, trust_domains: list[str]) -> dict[str, Any]:
        """Return what the source holds now."""
        source = self._source.result(PATIENCE)
        bundles = (source.get_bundle_for_trust_domain(TrustDomain(name)) for name in trust_domains)
        return material(source.get_x509_context().x509_svids, filter(None, bundles))

    def listen(self, authorize: str) -> int:
        """Serve mutual TLS to this SPIFFE ID alone, for good; return the port."""
        options = ListenOptions(authorize_fn=authorize_id(SpiffeId(authorize)))
        listening = listen("127.0.0.1:0", self._source.result(PATIENCE), options)
        threading.Thread(target=self._accept, args=[listening], daemon=True).start()
        return listening.getsockname()[1]

    def dial(self, port: int, authorize: str) -> str:
        """Say hello to a server, which must be this SPIFFE ID; return its answer."""
        connection = dial(
            f"127.0.0.1:{port}",
            self._source.result(PATIENCE),
            authorize_fn=authorize_id(SpiffeId(authorize)),
        )
        connection.sendall(b"hello\n")
        return connection.recv(1024).decode()

    def ask(self, call: str, **arguments: object) -> object:
        """Make any call of WorkloadApiClient."""
        return shown(getattr(self._client, call)(**arguments))

    def updates(self) -> int:
        """How often the source has told its subscribers of a change."""
        return self._updates

    def stream(self, method: str, metadata: list[list[str]]) -> int:
        """Open a raw stream; return its number."""
        self._streams.append(Stream(self._channel, method, metadata))
        return len(self._streams) - 1

    def streamed(self, number: int) -> dict[str, Any]:
        """All that came over a raw stream, and how it ended if it did."""
        stream = self._streams[number]
        return {"messages": stream.messages, "code": stream.code, "text": stream.text}

    def contract(self) -> dict[str, Any]:
        """py-spiffe's own idea of the service and its messages."""
        service = pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
        return {
            "methods": {m.name: [m.input_type.name, m.output_type.name] for m in service.methods},
            "messages": {name: fields(each) for name, each in pb.DESCRIPTOR.message_types_by_name.items()},
        }

    def _count(self) -> None:
        self._updates += 1

    def _accept(self, listening: SSL.Connection) -> None:
        while True:
            connection, _ = listening.accept()
            with contextlib.suppress(SSL.Error):
                heard = connection.recv(1024).decode().strip()
                connection.sendall(f"{spiffe_id(connection)} said {heard}".encode())
            connection.close()


def spiffe_id(connection: SSL.Connection) -> str:
    """The URI SAN of the peer."""
    names = connection.get_peer_certificate().to_cryptography().extensions
    return names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )[0]


def fields(message: Descriptor) -> dict[str, list[int]]:
    """Number and type of each field, by name."""
    return {field.name: [field.number, field.type] for field in message.fields}


def material(svids: Iterable[X509Svid], bundles: Iterable[X509Bundle]) -> dict[str, Any]:
    """SVIDs as ID and chain, bundles as authorities by trust domain; certificates are base64 of DER."""
    return {
        "svids": shown(svids),
        "bundles": {each.trust_domain.name: shown(each.x509_authorities) for each in bundles},
    }


def shown(value: Any) -> Any:
    """A value of py-spiffe as JSON."""
    match value:
        case X509Svid():
            return {"spiffe_id": str(value.spiffe_id), "chain": shown(value.cert_chain)}
        case X509BundleSet():
            return material([], value.bundles)["bundles"]
        case x509.Certificate():
            return base64.b64encode(value.public_bytes(Encoding.DER)).decode()
    return [shown(each) for each in value]


def refusal(error: Exception) -> dict[str, Any]:
    """An exception as JSON, with the gRPC status that it came from, if any."""
    cause = error.__cause__
    code = cause.code().value[0] if isinstance(cause, grpc.Call) else None
    return {"kind": type(error).__name__, "text": str(error), "code": code}


def main() -> None:
    """Do what each line says until there are no more."""
    driver = Driver()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"is": getattr(driver, arguments.pop("do"))(**arguments)}
        except Exception as error:  # noqa: BLE001 - the test judges it
            answer = {"error": refusal(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
