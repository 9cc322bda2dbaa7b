"""How Alembic reaches the database: through the app, in one transaction. Logging stays as the app has set it up."""

from alembic import context
from flask import current_app

from scheduler.adapters import tables  # noqa: F401  (the tables must be known to compare with them)

db = current_app.extensions["migrate"].db


def run_online() -> None:
    """Run all steps in one transaction: a migration that fails leaves the database as it was."""
    with db.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            transactional_ddl=True,  # SQLite can, once it is told when to begin
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            context.run_migrations()


def run_offline() -> None:
    """Print the statements instead (`flask db upgrade --sql`)."""
    context.configure(url=db.engine.url, target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
