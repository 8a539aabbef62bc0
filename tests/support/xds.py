"""Resources for tests of the xDS protocol, where only names and versions matter."""

from sds.xds.resource import Resource, content_version


def resource(name: str, content: object) -> Resource:
    body = f"{name}={content}".encode()
    return Resource(name=name, version=content_version(body), body=body, proof=(name, content))


def resources(**contents: object) -> dict[str, Resource]:
    """`resources(a=1, b=2)`: two resources by name, versioned by content."""
    return {name: resource(name, content) for name, content in contents.items()}


def contents(found: tuple[Resource, ...]) -> dict[str, object]:
    """The reverse: what `resources` was called with."""
    return dict(item.proof for item in found)  # type: ignore[call-overload]  # proofs are made above
