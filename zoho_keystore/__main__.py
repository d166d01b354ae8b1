"""``python -m zoho_keystore``."""

from zoho_keystore.cli import main

main(prog_name="zoho-keystore")
