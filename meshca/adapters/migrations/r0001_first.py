"""Entries, federated bundles, the journal of authorities, the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _entries()
    _bundles()
    _journal()
    _audit()


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("rule", sa.Text, nullable=False, unique=True),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("selectors", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ttl", sa.BigInteger),
        sa.Column("dns_names", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("default", sa.Boolean, nullable=False),
        sa.Column("federates_with", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("source", sa.Text, nullable=False),
    )


def _bundles() -> None:
    op.create_table(
        "bundles",
        sa.Column("trust_domain", sa.Text, primary_key=True),
        sa.Column("x509_authorities", sa.LargeBinary, nullable=False),
        sa.Column("sequence", sa.Text),
        sa.Column("refresh_hint", sa.BigInteger),
    )


def _journal() -> None:
    op.create_table(
        "journal",
        sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trust_domain", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "slots",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("issuer_id", sa.Text, nullable=False),
        sa.Column("prepared_at", sa.BigInteger, nullable=False),
        sa.Column("activated_at", sa.BigInteger),
        sa.Column("retired_at", sa.BigInteger),
        sa.Column("activation", sa.Text, nullable=False),
        sa.Column("leaving", sa.Text, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("writer", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("serial", sa.Text),
        sa.Column("spiffe_id", sa.Text),
        sa.Column("not_after", sa.BigInteger),
        sa.UniqueConstraint("writer", "sequence", name="audit_link"),
    )
    op.create_index("audit_at", "audit", ["at"])
    op.create_index("audit_kind", "audit", ["kind", "at"])
    _partial_index("audit_serial", ["serial", "at"], "serial IS NOT NULL")
    _partial_index("audit_spiffe_id", ["spiffe_id", "at"], "spiffe_id IS NOT NULL")
    _partial_index("audit_live", ["kind", "not_after"], "kind = 'issued'")


def _partial_index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "audit", columns, sqlite_where=condition, postgresql_where=condition)
