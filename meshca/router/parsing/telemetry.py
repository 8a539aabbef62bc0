"""Telemetry of telemetry.istio.io: how many spans go where and with which tags, who keeps a log, whether metrics name peers. Pure."""

import re
from enum import StrEnum

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import Telemetry
from meshca.router.parsing import grammar
from meshca.router.parsing.envelope import Envelope, selector
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.scalars import boolean, filled, one_of, share, text, text_as

_CREDENTIALS = re.compile(
    r"[(:?]([a-z0-9_-]*(?:authorization|cookie|api-?key|token|secret|password|session)[a-z0-9_-]*)[?)]", re.IGNORECASE
)
_QUERIES = re.compile(r"%(QUERY_PARAM|PATH(?=%))|[(?](:path|x-envoy-original-path)[?)]", re.IGNORECASE)
_ACCESS_LOG = "envoy"
_METRICS = "prometheus"


class _Mode(StrEnum):
    CLIENT = "CLIENT"
    SERVER = "SERVER"
    BOTH = "CLIENT_AND_SERVER"


_SIDES = {_Mode.CLIENT: (_Mode.CLIENT,), _Mode.SERVER: (_Mode.SERVER,), _Mode.BOTH: (_Mode.CLIENT, _Mode.SERVER)}


def telemetry(envelope: Envelope) -> Telemetry:
    """Read a Telemetry. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    spec.unsupported("targetRef", "targetRefs", instead="pick workloads by selector")
    tracing, logs = _only(spec, "tracing"), _logs(spec)
    silent = tracing.optional("disableSpanReporting", boolean)
    tracing.unsupported("match", "useRequestIdForTraceSampling", "enableIstioTags")
    host, port = _collector(tracing)
    return Telemetry(
        origin=envelope.origin,
        selector=selector(spec, "selector", "matchLabels"),
        collector=host,
        collector_port=port,
        sampling=tracing.optional("randomSamplingPercentage", share),
        tags=_tags(tracing),
        tracing=None if silent is None else not silent,
        client_log=logs.get(_Mode.CLIENT),
        server_log=logs.get(_Mode.SERVER),
        metrics=_metrics(spec),
    )


def _only(spec: Reader, name: str) -> Reader:
    """The one item of a list; one that is not there if there is none."""
    items = spec.children(name, filled=True)
    if len(items) > 1:
        spec.problem(name, "one item is supported by meshca")
    return items[0] if items else spec.absent()


def _collector(tracing: Reader) -> tuple[str, int | None]:
    """The service that spans go to. Istio's providers stand in its mesh configuration; here a provider is a service like any other."""
    nowhere: tuple[str, int | None] = ("", None)
    return _only(tracing, "providers").required("name", text_as(_place), nowhere)


def _place(written: str) -> tuple[str, int | None]:
    """A host, with or without a port."""
    host, colon, port = written.partition(":")
    return grammar.host(host), grammar.port(port) if colon else None


def _logs(spec: Reader) -> dict[_Mode, bool]:
    """Whether a log is kept, for each side of which something is said."""
    found: dict[_Mode, bool] = {}
    for log in spec.children("accessLogging", filled=True):
        log.unsupported("filter")
        _accept_only(log, _ACCESS_LOG, "the log that Envoy writes itself")
        mode = log.child("match").optional("mode", one_of(_Mode)) or _Mode.BOTH
        kept = not log.optional("disabled", boolean)
        for side in _SIDES[mode]:
            if side in found:
                log.problem("match", f"{side} is there twice")
            found[side] = kept
    return found


def _metrics(spec: Reader) -> bool | None:
    """Whether there are metrics that name the peer; None when nothing is said."""
    metrics = _only(spec, "metrics")
    metrics.unsupported("reportingInterval")
    _accept_only(metrics, _METRICS, "those that Envoy shows itself")
    overrides = _only(metrics, "overrides")
    overrides.unsupported("match", "tagOverrides", instead="all of them are on or off")
    return not overrides.optional("disabled", boolean) if metrics.present else None


def _accept_only(item: Reader, name: str, what: str) -> None:
    """The one provider that is there anyway."""
    for provider in item.children("providers", filled=True):
        if provider.required("name", text, name) != name:
            provider.problem("name", f"only {name!r} is supported by meshca: {what}")


def _tags(tracing: Reader) -> tuple[tuple[str, str], ...]:
    return tuple((name, _value(tag)) for name, tag in tracing.keyed("customTags", grammar.tag).items())


def _value(tag: Reader) -> str:
    """A tag's value in Envoy's format."""
    tag.unsupported("environment", instead="what a proxy was started with may hold secrets: write a literal")
    kind = tag.choice("literal", "header", "formatter")
    header = tag.child("header")
    header.unsupported("defaultValue")
    values = {
        "literal": tag.child("literal").required("value", text_as(_literal), ""),
        "header": header.required("name", text_as(_header), ""),
        "formatter": tag.child("formatter").required("value", text_as(_format), ""),
    }
    return values.get(kind, "")


def _literal(written: str) -> str:
    return grammar.literal_value(filled(written))


def _header(written: str) -> str:
    return _format(f"%REQ({grammar.header_name(written)})%")


def _format(written: str) -> str:
    """A value in Envoy's format. Spans are read by more people than credentials are for."""
    if found := _CREDENTIALS.search(written):
        raise InvalidInput(f"{found[1]} holds credentials, which have no place in a trace")
    if found := _QUERIES.search(written):
        raise InvalidInput(
            f"{found[1] or found[2]} holds the query, where tokens stand, which have no place in a trace"
        )
    return grammar.header_value(filled(written))
