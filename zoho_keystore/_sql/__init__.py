"""Connections to SQL databases: addresses, passwords, engines, and what their errors mean. No records, no keys.

SQLAlchemy and the drivers are extras, so they are imported when they are used.
"""
