"""Telemetry of telemetry.istio.io: sampling, tags, and whether there are traces and an access log. Pure."""

from meshca.router import grammar
from meshca.router.objects import Telemetry
from meshca.router.parsing.envelope import Envelope, selector
from meshca.router.reader import Reader
from meshca.router.scalars import boolean, filled, share, text, text_as

_ACCESS_LOG = "envoy"


def telemetry(envelope: Envelope) -> Telemetry:
    """Read a Telemetry. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    spec.unsupported("targetRef", "targetRefs", instead="pick workloads by selector")
    spec.unsupported("metrics", instead="Envoy's own metrics are always there")
    tracing, log = _only(spec, "tracing"), _only(spec, "accessLogging")
    silent, disabled = tracing.optional("disableSpanReporting", boolean), _is_log_disabled(log)
    tracing.unsupported("match", "useRequestIdForTraceSampling", "enableIstioTags")
    tracing.unsupported("providers", instead="traces go where the router's configuration says")
    return Telemetry(
        origin=envelope.origin,
        selector=selector(spec, "selector", "matchLabels"),
        sampling=tracing.optional("randomSamplingPercentage", share),
        tags=_tags(tracing),
        tracing=None if silent is None else not silent,
        access_log=not disabled if log.present else None,
    )


def _only(spec: Reader, name: str) -> Reader:
    """The one item of a list; one that is not there if there is none."""
    items = spec.children(name, filled=True)
    if len(items) > 1:
        spec.problem(name, "one item is supported by meshca, which knows one provider")
    return items[0] if items else spec.absent()


def _is_log_disabled(log: Reader) -> bool:
    log.unsupported("match", "filter")
    for provider in log.children("providers", filled=True):
        name = provider.required("name", text, _ACCESS_LOG)
        if name != _ACCESS_LOG:
            provider.problem("name", f"only {_ACCESS_LOG!r} is supported by meshca: the log that Envoy writes itself")
    return log.optional("disabled", boolean) or False


def _tags(tracing: Reader) -> tuple[tuple[str, str], ...]:
    return tuple((name, _literal(tag)) for name, tag in tracing.keyed("customTags", grammar.tag).items())


def _literal(tag: Reader) -> str:
    tag.unsupported("environment", "header", "formatter", instead="write a literal")
    return tag.child("literal", required=True).required("value", text_as(filled), "")
