"""The version: read by the build and by ``zoho_keystore.__version__``."""

__version__ = "0.1.0"
