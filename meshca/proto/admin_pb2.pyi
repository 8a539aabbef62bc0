import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Entry(_message.Message):
    __slots__ = ("id", "spiffe_id", "selectors", "ttl", "dns_names", "hint", "default", "federates_with", "expires_at", "source", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    DNS_NAMES_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    FEDERATES_WITH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    spiffe_id: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    dns_names: _containers.RepeatedScalarFieldContainer[str]
    hint: str
    default: bool
    federates_with: _containers.RepeatedScalarFieldContainer[str]
    expires_at: _timestamp_pb2.Timestamp
    source: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dns_names: _Optional[_Iterable[str]] = ..., hint: _Optional[str] = ..., default: _Optional[bool] = ..., federates_with: _Optional[_Iterable[str]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EntryID(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CreateEntryRequest(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ...) -> None: ...

class UpdateEntryRequest(_message.Message):
    __slots__ = ("entry", "fields")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., fields: _Optional[_Iterable[str]] = ...) -> None: ...

class ListEntriesRequest(_message.Message):
    __slots__ = ("spiffe_id", "selector", "source")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    selector: str
    source: str
    def __init__(self, spiffe_id: _Optional[str] = ..., selector: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class EntryList(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class DeleteEntryRequest(_message.Message):
    __slots__ = ("id", "now")
    ID_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    now: bool
    def __init__(self, id: _Optional[str] = ..., now: _Optional[bool] = ...) -> None: ...

class DeleteEntryResponse(_message.Message):
    __slots__ = ("callers", "denied", "still_entitled")
    class StillEntitledEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    STILL_ENTITLED_FIELD_NUMBER: _ClassVar[int]
    callers: int
    denied: int
    still_entitled: _containers.ScalarMap[str, int]
    def __init__(self, callers: _Optional[int] = ..., denied: _Optional[int] = ..., still_entitled: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ApplyEntriesRequest(_message.Message):
    __slots__ = ("source", "entries", "dry_run", "prune", "adopt")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    source: str
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    dry_run: bool
    prune: bool
    adopt: bool
    def __init__(self, source: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., dry_run: _Optional[bool] = ..., prune: _Optional[bool] = ..., adopt: _Optional[bool] = ...) -> None: ...

class ApplyEntriesResponse(_message.Message):
    __slots__ = ("created", "updated", "deleted", "unchanged")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    created: _containers.RepeatedCompositeFieldContainer[Entry]
    updated: _containers.RepeatedCompositeFieldContainer[Entry]
    deleted: _containers.RepeatedCompositeFieldContainer[Entry]
    unchanged: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, created: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., updated: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., deleted: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., unchanged: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class BundleRequest(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("trust_domain", "x509_authorities", "sequence", "refresh_hint", "digest")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFRESH_HINT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    x509_authorities: _containers.RepeatedScalarFieldContainer[bytes]
    sequence: int
    refresh_hint: int
    digest: str
    def __init__(self, trust_domain: _Optional[str] = ..., x509_authorities: _Optional[_Iterable[bytes]] = ..., sequence: _Optional[int] = ..., refresh_hint: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class BundleList(_message.Message):
    __slots__ = ("bundles",)
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ...) -> None: ...

class DeleteBundleRequest(_message.Message):
    __slots__ = ("trust_domain", "dissociate")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    DISSOCIATE_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    dissociate: bool
    def __init__(self, trust_domain: _Optional[str] = ..., dissociate: _Optional[bool] = ...) -> None: ...

class DeleteBundleResponse(_message.Message):
    __slots__ = ("dissociated_entries",)
    DISSOCIATED_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    dissociated_entries: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dissociated_entries: _Optional[_Iterable[str]] = ...) -> None: ...

class KindRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    def __init__(self, kind: _Optional[str] = ...) -> None: ...

class AuthorityRequest(_message.Message):
    __slots__ = ("id", "force", "kind")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    kind: str
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ..., kind: _Optional[str] = ...) -> None: ...

class Authority(_message.Message):
    __slots__ = ("id", "kind", "state", "issuer_id", "not_before", "not_after", "prepared_at", "activated_at", "certificate", "live_leaves", "next", "leaving")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ISSUER_ID_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    PREPARED_AT_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_AT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    LIVE_LEAVES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    state: str
    issuer_id: str
    not_before: _timestamp_pb2.Timestamp
    not_after: _timestamp_pb2.Timestamp
    prepared_at: _timestamp_pb2.Timestamp
    activated_at: _timestamp_pb2.Timestamp
    certificate: bytes
    live_leaves: int
    next: str
    leaving: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., issuer_id: _Optional[str] = ..., not_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., not_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., prepared_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., activated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., certificate: _Optional[bytes] = ..., live_leaves: _Optional[int] = ..., next: _Optional[str] = ..., leaving: _Optional[str] = ...) -> None: ...

class AuthorityList(_message.Message):
    __slots__ = ("authorities",)
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    authorities: _containers.RepeatedCompositeFieldContainer[Authority]
    def __init__(self, authorities: _Optional[_Iterable[_Union[Authority, _Mapping]]] = ...) -> None: ...

class AuthorityOutcome(_message.Message):
    __slots__ = ("authority", "remarks")
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    authority: Authority
    remarks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, authority: _Optional[_Union[Authority, _Mapping]] = ..., remarks: _Optional[_Iterable[str]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("at", "step", "text", "authority_id", "behind")
    AT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_ID_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    step: str
    text: str
    authority_id: str
    behind: int
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[str] = ..., text: _Optional[str] = ..., authority_id: _Optional[str] = ..., behind: _Optional[int] = ...) -> None: ...

class AuditRecord(_message.Message):
    __slots__ = ("writer", "sequence", "at", "kind", "body", "previous", "hash", "serial", "spiffe_id", "not_after")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    writer: str
    sequence: int
    at: _timestamp_pb2.Timestamp
    kind: str
    body: str
    previous: str
    hash: str
    serial: str
    spiffe_id: str
    not_after: _timestamp_pb2.Timestamp
    def __init__(self, writer: _Optional[str] = ..., sequence: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., body: _Optional[str] = ..., previous: _Optional[str] = ..., hash: _Optional[str] = ..., serial: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., not_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AuditRecordList(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[AuditRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[AuditRecord, _Mapping]]] = ...) -> None: ...

class FindRequest(_message.Message):
    __slots__ = ("serial", "spiffe_id", "since", "kind", "limit")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    serial: str
    spiffe_id: str
    since: _timestamp_pb2.Timestamp
    kind: str
    limit: int
    def __init__(self, serial: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class VerifyAuditRequest(_message.Message):
    __slots__ = ("head",)
    HEAD_FIELD_NUMBER: _ClassVar[int]
    head: str
    def __init__(self, head: _Optional[str] = ...) -> None: ...

class VerifyAuditResponse(_message.Message):
    __slots__ = ("records", "head")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    records: int
    head: str
    def __init__(self, records: _Optional[int] = ..., head: _Optional[str] = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("before",)
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    before: _timestamp_pb2.Timestamp
    def __init__(self, before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PruneResponse(_message.Message):
    __slots__ = ("removed", "anchor")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    removed: int
    anchor: str
    def __init__(self, removed: _Optional[int] = ..., anchor: _Optional[str] = ...) -> None: ...

class MintRequest(_message.Message):
    __slots__ = ("spiffe_id", "dns_names", "ttl", "csr")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    DNS_NAMES_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    dns_names: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    csr: bytes
    def __init__(self, spiffe_id: _Optional[str] = ..., dns_names: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., csr: _Optional[bytes] = ...) -> None: ...

class MintResponse(_message.Message):
    __slots__ = ("chain", "bundle", "remark")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    bundle: Bundle
    remark: str
    def __init__(self, chain: _Optional[_Iterable[bytes]] = ..., bundle: _Optional[_Union[Bundle, _Mapping]] = ..., remark: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("trust_domain", "version", "started_at", "ready", "alarms", "authorities", "bundle", "behind", "holders", "entries", "streams", "audit_head", "sockets", "checks")
    class SocketsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    version: str
    started_at: _timestamp_pb2.Timestamp
    ready: bool
    alarms: _containers.RepeatedScalarFieldContainer[str]
    authorities: _containers.RepeatedCompositeFieldContainer[Authority]
    bundle: Bundle
    behind: _containers.RepeatedCompositeFieldContainer[Holder]
    holders: int
    entries: int
    streams: int
    audit_head: str
    sockets: _containers.ScalarMap[str, str]
    checks: _containers.RepeatedCompositeFieldContainer[HealthCheck]
    def __init__(self, trust_domain: _Optional[str] = ..., version: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ready: _Optional[bool] = ..., alarms: _Optional[_Iterable[str]] = ..., authorities: _Optional[_Iterable[_Union[Authority, _Mapping]]] = ..., bundle: _Optional[_Union[Bundle, _Mapping]] = ..., behind: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ..., holders: _Optional[int] = ..., entries: _Optional[int] = ..., streams: _Optional[int] = ..., audit_head: _Optional[str] = ..., sockets: _Optional[_Mapping[str, str]] = ..., checks: _Optional[_Iterable[_Union[HealthCheck, _Mapping]]] = ...) -> None: ...

class HealthCheck(_message.Message):
    __slots__ = ("name", "healthy", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    healthy: bool
    text: str
    def __init__(self, name: _Optional[str] = ..., healthy: _Optional[bool] = ..., text: _Optional[str] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("name", "spiffe_ids", "bundle", "since", "expires")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_IDS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    name: str
    spiffe_ids: _containers.RepeatedScalarFieldContainer[str]
    bundle: str
    since: _timestamp_pb2.Timestamp
    expires: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., spiffe_ids: _Optional[_Iterable[str]] = ..., bundle: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WhyRequest(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class WhyResponse(_message.Message):
    __slots__ = ("caller", "selectors", "remarks", "granted", "near_misses", "holds", "verdict")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    NEAR_MISSES_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    caller: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    remarks: _containers.RepeatedScalarFieldContainer[str]
    granted: _containers.RepeatedCompositeFieldContainer[Entry]
    near_misses: _containers.RepeatedCompositeFieldContainer[NearMiss]
    holds: _containers.RepeatedScalarFieldContainer[str]
    verdict: str
    def __init__(self, caller: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., remarks: _Optional[_Iterable[str]] = ..., granted: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., near_misses: _Optional[_Iterable[_Union[NearMiss, _Mapping]]] = ..., holds: _Optional[_Iterable[str]] = ..., verdict: _Optional[str] = ...) -> None: ...

class NearMiss(_message.Message):
    __slots__ = ("entry", "missing")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class BackupPart(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...
