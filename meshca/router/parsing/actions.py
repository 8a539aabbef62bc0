"""What a rule does besides sending requests on: answers, rewrites, retries and faults. Pure."""

import base64
import binascii
import re
from datetime import timedelta
from enum import StrEnum

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import Abort, Delay, DirectResponse, Redirect, Retries, Rewrite
from meshca.router.parsing import grammar
from meshca.router.parsing.destinations import PORT, percent
from meshca.router.parsing.documents import Tree
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.regex import groups, regular_expression
from meshca.router.parsing.scalars import INT32, MILLISECOND, boolean, duration, integer, named, one_of, text, text_as
from meshca.router.parsing.wording import shown

MAX_BODY = 1 << 20

_REDIRECT_CODES = (301, 302, 303, 307, 308)
_GRPC_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_GRPC_STATUS = named({name: name for name in _GRPC_STATUSES})
_SCHEME = named({"http": "http", "https": "https"})
_DURATION = duration(MILLISECOND)


class _DerivePort(StrEnum):
    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


def redirect_code(tree: Tree) -> int:
    """A status that makes clients go elsewhere."""
    code = integer(100, 599)(tree)
    if code not in _REDIRECT_CODES:
        raise InvalidInput(f"{code} is not one of {', '.join(map(str, _REDIRECT_CODES))}")
    return code


def redirect(reader: Reader) -> Redirect | None:
    """Answer with a redirect, which must lead elsewhere."""
    reader.choice("port", "derivePort", needed=False)
    reader.choice("uri", "prefixRewrite", needed=False)
    found = Redirect(
        uri=reader.optional("uri", text_as(grammar.target)) or "",
        prefix=reader.optional("prefixRewrite", text_as(grammar.path)) or "",
        authority=reader.optional("authority", text_as(grammar.authority)) or "",
        scheme=reader.optional("scheme", _SCHEME) or "",
        port=reader.optional("port", PORT),
        keep_port=reader.optional("derivePort", one_of(_DerivePort)) is _DerivePort.FROM_REQUEST_PORT,
        code=reader.optional("redirectCode", redirect_code) or Redirect().code,
    )
    if not any(map(reader.has, ("uri", "prefixRewrite", "authority", "scheme", "port"))) and reader.present:
        reader.problem("", "leads nowhere else: needs one of uri, prefixRewrite, authority, scheme, port")
    return found if reader.present else None


def direct_response(reader: Reader) -> DirectResponse | None:
    """Answer at once."""
    body = reader.child("body")
    body.choice("string", "bytes", needed=False)
    written = body.optional("string", text_as(_body)) or body.optional("bytes", text_as(_decoded)) or b""
    response = DirectResponse(status=reader.required("status", integer(200, 599), 200), body=written)
    return response if reader.present else None


def _body(written: str) -> bytes:
    body = written.encode()
    if len(body) > MAX_BODY:
        raise InvalidInput(f"{len(body)} bytes are too many: {MAX_BODY} are possible")
    return body


def _decoded(written: str) -> bytes:
    try:
        return base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{shown(written)} is not base64") from error


def rewrite(rule: Reader, authority: str) -> Rewrite | None:
    """What is changed before a request goes on; `authority` is what the rule's `headers` say of it."""
    reader = rule.child("rewrite")
    written = reader.optional("authority", text_as(grammar.authority)) or ""
    if written and authority:
        reader.problem("authority", "the header `host` is set too: say it once")
    expression = reader.child("uriRegexRewrite")
    found = Rewrite(
        uri=reader.optional("uri", text_as(grammar.path)) or "",
        regex=expression.required("match", text_as(regular_expression), ""),
        substitution=expression.required("rewrite", text, ""),
        authority=written or authority,
    )
    _check_substitution(expression, found)
    reader.choice("uri", "uriRegexRewrite", needed=not reader.has("authority"))
    return found if reader.present or authority else None


def _check_substitution(reader: Reader, found: Rewrite) -> None:
    """RE2's rewrite strings: a backslash is followed by another, or by the number of a group."""
    if not found.regex:
        return
    for escape in re.findall(r"\\.?", found.substitution, re.DOTALL):
        if not re.fullmatch(r"\\(?:\\|[0-9])", escape):
            reader.problem("rewrite", f"{shown(escape)} is neither a group such as \\1 nor \\\\")
        elif escape[1].isdigit() and int(escape[1]) > groups(found.regex):
            reader.problem("rewrite", f"{escape} is more than the {groups(found.regex)} groups of the expression")
    if re.search(r"[\x00\r\n]", found.substitution):
        reader.problem("rewrite", "has a character that is never in a path")


def retries(reader: Reader) -> Retries | None:
    """How often a request is tried again. Without `attempts` it is not, and then nothing else may be said."""
    attempts = reader.optional("attempts", integer(0, INT32))
    never = attempts == 0 or not reader.has("attempts")
    if never and any(map(reader.has, ("perTryTimeout", "retryOn", "backoff"))):
        reader.problem("attempts", "without attempts nothing is tried again: write how many")
    if reader.optional("retryRemoteLocalities", boolean):
        reader.warn("retryRemoteLocalities", "has no effect: meshca knows no localities")
    keep = reader.optional("retryIgnorePreviousHosts", boolean)
    found = Retries(
        attempts=attempts or 0,
        per_try_timeout=reader.optional("perTryTimeout", duration(MILLISECOND, or_zero=True)) or None,
        retry_on=reader.optional("retryOn", text_as(_retry_on)) or (),
        backoff=reader.optional("backoff", _DURATION),
        ignore_previous_hosts=keep is not False,
    )
    return found if reader.present else None


def _retry_on(written: str) -> tuple[str, ...]:
    return tuple(grammar.retry_condition(part.strip()) for part in written.split(","))


def faults(reader: Reader) -> tuple[Delay | None, Abort | None]:
    """What is done to requests on purpose."""
    slow, stop = reader.child("delay"), reader.child("abort")
    if reader.present and not (reader.has("delay") or reader.has("abort")):
        reader.problem("", "needs one of delay, abort")
    return _delay(slow), _abort(stop)


def _delay(reader: Reader) -> Delay | None:
    reader.unsupported("exponentialDelay", instead="write fixedDelay")
    fixed = reader.required("fixedDelay", _DURATION, timedelta(0))
    portion = _affected(reader)
    return Delay(fixed=fixed, share=portion) if reader.present else None


def _abort(reader: Reader) -> Abort | None:
    reader.unsupported("http2Error", instead="write httpStatus or grpcStatus")
    reader.choice("httpStatus", "grpcStatus")
    status = reader.optional("httpStatus", integer(200, 599))
    grpc_status = reader.optional("grpcStatus", _GRPC_STATUS) or ""
    portion = _affected(reader)
    return Abort(http_status=status, grpc_status=grpc_status, share=portion) if reader.present else None


def _affected(fault: Reader) -> int:
    """The share of requests that a fault hits: none if it does not say, as in Istio."""
    fault.unsupported("percent", instead="write percentage: {value: ...}")
    portion = percent(fault, "percentage")
    if fault.present and not fault.has("percentage"):
        fault.warn("percentage", "without a percentage no request is affected")
    return portion or 0
