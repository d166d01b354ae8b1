"""Zoho's OAuth: its data centres, endpoints and sign-in flows. The only code that uses the network.

Nothing here knows of storages: callers hand in what is to be sent, and save what comes back.
"""
