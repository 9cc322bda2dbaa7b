"""The first tables: nodes, requests, events, boots."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

row_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
identifier = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("address", sa.String(2048), nullable=False),
        sa.Column("models", sa.Text, nullable=False),
        sa.Column("max_concurrent", sa.Integer, nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
        sa.Column("api_key", sa.Text),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("remark", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("overrides", sa.Text, nullable=False),
        sa.Column("is_from_file", sa.Boolean, nullable=False),
        sa.Column("is_deleted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "requests",
        sa.Column("seq", row_number, autoincrement=True, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("client_request_id", identifier),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("key_name", sa.String(128)),
        sa.Column("path", sa.String(512), nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("client", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("node_id", sa.String(64)),
        sa.Column("decision", sa.String(512)),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("first_byte_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("queue_ms", sa.Double),
        sa.Column("ttfb_ms", sa.Double),
        sa.Column("latency_ms", sa.Double),
        sa.Column("http_status", sa.Integer),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.String(2000)),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_requests"),
        sa.UniqueConstraint("id", name="uq_requests_id"),
    )
    request_index("created_at")
    request_index("model", "created_at")
    request_index("node_id", "created_at")
    request_index("key_name", "created_at", where="key_name IS NOT NULL")
    request_index("client_request_id", where="client_request_id IS NOT NULL")
    request_index("status", "created_at", where="status <> 'completed'")
    request_index("outcome", "created_at", where="outcome <> 'completed'")
    request_index("error_code", "created_at", where="error_code IS NOT NULL")
    request_index("priority", "created_at", where="priority <> 'normal'")
    op.create_table(
        "events",
        sa.Column("seq", row_number, autoincrement=True, nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("note", sa.String(2000)),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("uid", name="uq_events_uid"),
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_table(
        "boots",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("home", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_boots"),
    )


def request_index(*columns: str, where: str | None = None) -> None:
    predicate = None if where is None else sa.text(where)
    name = "ix_requests_" + "_".join(columns)
    op.create_index(name, "requests", list(columns), sqlite_where=predicate, postgresql_where=predicate)


def downgrade() -> None:
    for table in ("boots", "events", "requests", "nodes"):
        op.drop_table(table)
