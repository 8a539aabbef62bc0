"""The tables of the SQL store as they are at the newest revision; `migrations/` makes them.

Rules:
- Instants are integer microseconds since 1970 in UTC, durations integer microseconds: exact, sortable, the same in every database.
- What is absent is NULL, so that partial indexes on it are used whenever a query compares the column.
- Sets and lists are canonical JSON text; certificates are DER.
"""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

METADATA = MetaData()

ENTRIES = Table(
    "entries",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False, unique=True),  # digest of SPIFFE ID and selectors
    Column("spiffe_id", Text, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ttl", BigInteger),
    Column("dns_names", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("default", Boolean, nullable=False),
    Column("federates_with", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("source", Text, nullable=False),
)

BUNDLES = Table(
    "bundles",
    METADATA,
    Column("trust_domain", Text, primary_key=True),
    Column("x509_authorities", LargeBinary, nullable=False),
    Column("sequence", Text),  # 64 bits without a sign: more than any database's integer holds
    Column("refresh_hint", BigInteger),
)

# One row, or none in a new store.
JOURNAL = Table(
    "journal",
    METADATA,
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("trust_domain", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

SLOTS = Table(
    "slots",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("issuer_id", Text, nullable=False),
    Column("prepared_at", BigInteger, nullable=False),
    Column("activated_at", BigInteger),
    Column("retired_at", BigInteger),
    Column("activation", Text, nullable=False),
    Column("leaving", Text, nullable=False),
)

# `position` is the order of appending, and settles what `at` leaves open.
AUDIT = Table(
    "audit",
    METADATA,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("writer", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("serial", Text),
    Column("spiffe_id", Text),
    Column("not_after", BigInteger),
    UniqueConstraint("writer", "sequence", name="audit_link"),
)

Index("audit_at", AUDIT.c.at)
Index("audit_kind", AUDIT.c.kind, AUDIT.c.at)
for _name in ("serial", "spiffe_id"):
    _present = AUDIT.c[_name].is_not(None)
    Index(f"audit_{_name}", AUDIT.c[_name], AUDIT.c.at, sqlite_where=_present, postgresql_where=_present)
# `kind` stands in it, so that SQLite does not take `audit_kind` instead, which has all that was ever issued.
_issued = AUDIT.c.kind == "issued"
Index("audit_live", AUDIT.c.kind, AUDIT.c.not_after, sqlite_where=_issued, postgresql_where=_issued)
