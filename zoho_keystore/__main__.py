"""``python -m zoho_keystore``."""

from zoho_keystore._cli import main

main(prog_name="zoho-keystore")
