"""Encrypt a store with a new key, and retire the old keys of its ring: they stay there for opening only.

Running programs follow without a restart. If this is interrupted, the ring still opens the store: run it again.

Keys of an environment variable or a program (env:, command:) are handed out by you: hand NEW,OLD (newest first) to all
programs; run this with the same two keys, or with the new one as --new-key; then hand out NEW alone. If you cannot
restart all programs at once, hand out OLD,NEW before.
"""

from __future__ import annotations

import argparse
import sys

from zoho_keystore import KeystoreError, rotate


def main() -> int:
    """Rotate and return 0, or print one line about the failure and return 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--store", metavar="PATH", help="default: ZOHO_KEYSTORE_FILE, else tokens.keystore in the data directory"
    )
    parser.add_argument("--key", metavar="SPEC", help="where its keys come from; default: as for EncryptedFileStore")
    parser.add_argument("--new-key", metavar="SPEC", help="where the new key comes from; default: a key is made")
    parser.add_argument(
        "--drop-old",
        action="store_true",
        help="for a leaked key: remove the old keys at once; other stores and backups that are sealed with them can "
        "only be opened with a copy of the key afterwards",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing on success, for cron")
    options = parser.parse_args()
    try:
        done = rotate(options.store, key=options.key, new=options.new_key, drop_old=options.drop_old)
    except KeystoreError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.quiet:
        print(done.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
