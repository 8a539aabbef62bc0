"""The only place that knows the protobuf messages of xDS: bytes to requests, responses to bytes.

Envoy's first request carries 62 KB of node (P15), of which a few words are kept; the message itself is gone when these functions return.
Texts that a stream keeps are cut: a version or nonce of that length is not one of ours.
"""

from typing import TypeVar

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy.service.discovery.v3.discovery_pb2 import Resource as ResourceMessage
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from sds.xds.delta import DeltaRequest, DeltaResponse
from sds.xds.resource import InvalidRequest, Node, Resource, content_version
from sds.xds.session import Request, Response

_LONGEST_TEXT = 1000
_MOST_FLAGS = 32
_OURS = "meshca."

_M = TypeVar("_M", bound=Message)


def pack(name: str, message: Message, proof: object = None) -> Resource:
    """Return a message as a resource. Maps in it are serialized in a fixed order, so equal content has an equal version."""
    body = Any()
    body.Pack(message, deterministic=True)
    content = body.SerializeToString(deterministic=True)
    return Resource(name=name, version=content_version(content), body=content, proof=proof)


def read_request(content: bytes) -> Request:
    """Parse a DiscoveryRequest. Raises InvalidRequest."""
    message = _parse(DiscoveryRequest(), content)
    return Request(
        type_url=message.type_url,
        names=tuple(message.resource_names),
        version=message.version_info[:_LONGEST_TEXT],
        nonce=message.response_nonce[:_LONGEST_TEXT],
        error=_error(message),
        node=_node(message.node),
    )


def read_delta_request(content: bytes) -> DeltaRequest:
    """Parse a DeltaDiscoveryRequest. Raises InvalidRequest."""
    message = _parse(DeltaDiscoveryRequest(), content)
    return DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions={name: version[:_LONGEST_TEXT] for name, version in message.initial_resource_versions.items()},
        nonce=message.response_nonce[:_LONGEST_TEXT],
        error=_error(message),
        node=_node(message.node),
    )


def write_response(response: Response) -> bytes:
    """Serialize a DiscoveryResponse."""
    message = DiscoveryResponse(
        type_url=response.type_url,
        version_info=response.version,
        nonce=response.nonce,
        resources=[Any.FromString(resource.body) for resource in response.resources],
    )
    serialized: bytes = message.SerializeToString()
    return serialized


def write_delta_response(response: DeltaResponse) -> bytes:
    """Serialize a DeltaDiscoveryResponse."""
    message = DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        resources=[
            ResourceMessage(name=resource.name, version=resource.version, resource=Any.FromString(resource.body))
            for resource in response.resources
        ],
        removed_resources=response.removed,
    )
    serialized: bytes = message.SerializeToString()
    return serialized


def _parse(message: _M, content: bytes) -> _M:
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise InvalidRequest(f"{len(content)} bytes are not a {message.DESCRIPTOR.name}") from error
    return message


def _error(message: DiscoveryRequest | DeltaDiscoveryRequest) -> str | None:
    """P3: presence decides, whatever the code. The text is the client's, so it is cut."""
    return message.error_detail.message[:_LONGEST_TEXT] if message.HasField("error_detail") else None


def _node(message: NodeMessage) -> Node:
    version = message.user_agent_build_version.version
    known = message.user_agent_build_version.HasField("version")
    flags = (key for key, value in message.metadata.fields.items() if value.bool_value or value.string_value == "true")
    texts = ((key, value.string_value) for key, value in message.metadata.fields.items() if key.startswith(_OURS))
    return Node(
        id=message.id[:_LONGEST_TEXT],
        cluster=message.cluster[:_LONGEST_TEXT],
        user_agent=message.user_agent_name[:_LONGEST_TEXT],
        version=(version.major_number, version.minor_number, version.patch) if known else None,
        flags=frozenset(key for key in sorted(flags)[:_MOST_FLAGS] if len(key) <= _LONGEST_TEXT),
        texts={key: value for key, value in sorted(texts)[:_MOST_FLAGS] if len(key + value) <= _LONGEST_TEXT},
    )
