"""Mutants of stores in databases: each takes one protection out, as :mod:`faults.mutants` does for files."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from faults.mutants import patch
from zoho_keystore._sql import engine, failures, sessions
from zoho_keystore._sql.failures import Failure
from zoho_keystore._storage.sql import sessions as connections
from zoho_keystore._storage.sql.rotation import KeyRotation
from zoho_keystore._storage.sql.sessions import Session, SQLFailedError
from zoho_keystore._storage.sql.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Callable


def _change_statements(change: Callable[[Statements], None]) -> None:
    make = Statements.__init__

    def changed(self: Statements, *arguments: Any) -> None:
        make(self, *arguments)
        change(self)

    patch(Statements, __init__=changed)


def no_store_lock() -> None:
    """Do not take the lock of the store's row."""

    def change(statements: Statements) -> None:
        statements.lock += " WHERE format < 0"

    _change_statements(change)


def no_transaction() -> None:
    """Have SQLite commit each statement by itself: there the transaction is the lock."""
    patch(engine, _begin_immediate=lambda _connection: None)


def no_version() -> None:
    """Update a row whatever its version is by now."""

    def change(statements: Statements) -> None:
        replaced = statements.update.replace("AND version =", "AND 0 <=")
        assert replaced != statements.update
        statements.update = replaced

    _change_statements(change)


def failed_commit_taken_for_done() -> None:
    """Take a commit whose connection broke for one that worked."""
    commit = Session.commit

    def lenient(self: Session) -> None:
        with suppress(SQLFailedError):
            commit(self)

    patch(Session, commit=lenient)


def no_causal_reads() -> None:
    """Let a node of Galera answer before it has applied what other nodes have committed."""
    execute = sessions._execute
    patch(sessions, _execute=lambda connection, text: [] if "wsrep" in text else execute(connection, text))


def connections_of_the_parent() -> None:
    """Let a forked child use the connections of its parent."""
    patch(engine.Engines, after_fork_in_child=lambda _self: None)


def one_maker_alone() -> None:
    """Do not expect that another process makes the tables or the store at the same moment."""
    classify = failures.classify

    def strict(error: BaseException) -> Failure:
        failure = classify(error)
        return Failure.OTHER if failure is Failure.EXISTS else failure

    patch(connections, classify=strict)


def not_announced() -> None:
    """Seal rows with a new key before clients know that they have to look for it."""
    patch(KeyRotation, _announce=lambda self, session: self._locked(session).key_names)


def old_key_dropped_first() -> None:
    """Remove the old keys from the ring before the rows are sealed anew."""
    run = KeyRotation.run

    def early(self: KeyRotation) -> None:
        keys: Any = self._storage.require_open().keys
        keys._source.remove(keys._source.load()[1:])
        run(self)

    patch(KeyRotation, run=early)


def finished_too_early() -> None:
    """Withdraw the old keys after the first batch."""
    seal = KeyRotation._seal_batch
    patch(
        KeyRotation,
        _seal_batch=lambda self, session, *, name, last: [] if last else seal(self, session, name=name, last=last),
    )

    def finish(self: KeyRotation, session: Session) -> bool:
        self._set_key_names(session, self._locked(session).header, (self._new,))
        return True

    patch(KeyRotation, _finish=finish)
