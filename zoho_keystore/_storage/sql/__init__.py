"""A storage in a SQL database: PostgreSQL, MySQL, MariaDB or SQLite, shared by processes and machines.

The database sees sealed rows, and keyed fingerprints of the values that look-ups compare.
"""
