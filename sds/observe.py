"""What the streams tell whoever counts: implemented by telemetry, ignored by default."""

from typing import Literal, Protocol

Service = Literal["sds", "workload_api"]


class Observer(Protocol):
    """Counts what happens on streams and connections. Methods are called in the event loop: they never block and never raise."""

    def stream_opened(self, service: Service) -> None:
        """A peer opened a stream."""
        ...

    def stream_closed(self, service: Service) -> None:
        """A stream ended, for whatever reason. Called once for each opened one."""
        ...

    def pushed(self, service: Service) -> None:
        """A message was written."""
        ...

    def acked(self, service: Service, seconds: float) -> None:
        """A client accepted a resource, `seconds` after it could first be sent."""
        ...

    def nacked(self, service: Service) -> None:
        """A client refused a response."""
        ...

    def denied(self, service: Service) -> None:
        """A caller without an identity was turned away."""
        ...

    def connection_shed(self) -> None:
        """A connection was closed at once, since a limit was reached."""
        ...


class Silent:
    """An Observer that does not count."""

    def stream_opened(self, service: Service) -> None:
        """See Observer."""

    def stream_closed(self, service: Service) -> None:
        """See Observer."""

    def pushed(self, service: Service) -> None:
        """See Observer."""

    def acked(self, service: Service, seconds: float) -> None:
        """See Observer."""

    def nacked(self, service: Service) -> None:
        """See Observer."""

    def denied(self, service: Service) -> None:
        """See Observer."""

    def connection_shed(self) -> None:
        """See Observer."""
