"""Encryption keys: their format, the ring that encrypts with them, and the sources that they come from."""
