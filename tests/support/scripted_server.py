"""A scripted server: a real contract (a generated module) on a real Unix socket, with answers that a test has written down."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass


class ScriptedServer:
    """Answers calls by `Service.Method`: a message, a list of them for a stream, a status and its text, or a function of the request.

    Keeps what it was asked.
    """

    def __init__(self, path: str, contract: ModuleType) -> None:
        self.path = path
        self._contract = contract
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, Any]] = []
        self.cancelled: list[str] = []

    @property
    def request(self) -> Any:
        """The last request."""
        return self.requests[-1][1]

    def _respond(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append((name, request))
        answer = self.answers.get(name, (grpc.StatusCode.UNIMPLEMENTED, f"no answer for {name}"))
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, tuple):
            context.abort(*answer)
        return answer

    def _stream(self, name: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(lambda: self.cancelled.append(name))
        for item in self._respond(name, request, context):
            if isinstance(item, tuple):
                context.abort(*item)
            yield item

    def _handler(self, service: str, method: Any) -> Any:
        name = f"{service}.{method.name}"
        codec = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(lambda r, c: self._stream(name, r, c), **codec)
        return grpc.unary_unary_rpc_method_handler(lambda r, c: self._respond(name, r, c), **codec)

    def handlers(self) -> tuple[Any, ...]:
        """A handler for each service of the contract."""
        return tuple(
            grpc.method_handlers_generic_handler(
                service.full_name, {method.name: self._handler(service.name, method) for method in service.methods}
            )
            for service in self._contract.DESCRIPTOR.services_by_name.values()
        )


@contextmanager
def scripted_server(path: Path, contract: ModuleType) -> Iterator[ScriptedServer]:
    """The server on this socket, until the end of the block."""
    scripted = ScriptedServer(str(path), contract)
    server = grpc.server(ThreadPoolExecutor(max_workers=4), handlers=scripted.handlers())
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield scripted
    finally:
        server.stop(None).wait()
