"""From the tables of an older version to those of this one. Imported only when there is something to do."""

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from trusted_pool.ports.store import StoreError
from trusted_pool.store.opening import APPLICATION_ID


def upgrade(connection: sqlite3.Connection, path: Path, to: str = "head") -> None:
    """Run the migrations that are missing, each in a transaction. Raises StoreError."""
    script = _script()
    engine = _engine(connection)

    def missing(revision: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs(to, revision)  # noqa: SLF001  # alembic's own commands are made like this

    try:
        with engine.connect() as bound:
            _run(script, bound, missing)
    except CommandError as error:
        raise StoreError(
            f"the database {path} was made by a newer version of Trusted Pool ({error}). Start that version instead"
        ) from error
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def downgrade(connection: sqlite3.Connection, to: str) -> None:
    """Run migrations backwards to a revision, or to `base`."""
    script = _script()

    def back(revision: Any, _context: MigrationContext) -> Any:
        return script._downgrade_revs(to, revision)  # noqa: SLF001  # the same

    with _engine(connection).connect() as bound:
        _run(script, bound, back)


def head() -> str | None:
    """Return the newest revision."""
    return _script().get_current_head()


def _run(script: ScriptDirectory, bound: sa.Connection, revisions: Any) -> None:
    with EnvironmentContext(_config(), script, fn=revisions) as environment:
        environment.configure(
            connection=bound, transactional_ddl=True, transaction_per_migration=True, render_as_batch=True
        )
        with environment.begin_transaction():
            environment.run_migrations()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _engine(connection: sqlite3.Connection) -> sa.Engine:
    """Wrap the one connection; SQLAlchemy must begin for itself, as Python's sqlite3 does not before a CREATE."""
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.pool.StaticPool)

    @sa.event.listens_for(engine, "begin")
    def begin(bound: sa.Connection) -> None:
        bound.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
