"""Rollups, kept by the writer from now on, and marks. The rows that are there are rolled up at the next start."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollups",
        sa.Column("step_ms", sa.Integer, nullable=False),
        sa.Column("dimension", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("without_usage", sa.BigInteger, nullable=False),
        sa.Column("queue_us", sa.BigInteger, nullable=False),
        sa.Column("ttfb_us", sa.BigInteger, nullable=False),
        sa.Column("latency_us", sa.BigInteger, nullable=False),
        sa.Column("queue", sa.LargeBinary),
        sa.Column("ttfb", sa.LargeBinary),
        sa.Column("latency", sa.LargeBinary),
        sa.PrimaryKeyConstraint("step_ms", "dimension", "at", "name", "model", name="pk_rollups"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_inbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rollup_inbox"),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_marks"),
    )
    op.execute(
        "INSERT INTO marks (name, value) "
        "SELECT 'rows_to_roll_up', CAST(MAX(seq) AS VARCHAR(64)) FROM requests HAVING MAX(seq) IS NOT NULL"
    )


def downgrade() -> None:
    for table in ("marks", "rollup_inbox", "rollups"):
        op.drop_table(table)
