"""Seal a store with a new key, and drop the old ones.

The new key joins the key ring, the store is sealed with it, and then the old keys leave the ring. Running programs
follow by themselves. If it is interrupted, everything stays readable: run it again.

Keys that come from an environment variable or a program (env:, command:) are handed out by you, in two phases: hand
NEW,OLD (newest first) to all programs; run this with the same two keys, or with the new one as --new-key, which seals
the store with it; then hand out NEW alone. If you cannot restart all programs at once, hand out OLD,NEW before.
"""

from __future__ import annotations

import argparse
import sys

from zoho_keystore._operations.rotation import rotate
from zoho_keystore.errors import KeystoreError


def main() -> int:
    """Rotate, and return 0; or 1 with one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="PATH", help="default: ZOHO_KEYSTORE_FILE, else the one in the data folder")
    parser.add_argument("--key", metavar="SPEC", help="where its keys come from; default: as for EncryptedFileStore")
    parser.add_argument("--new-key", metavar="SPEC", help="where the new key comes from; default: it is made")
    parser.add_argument("--keep-old", action="store_true", help="leave the old keys in the ring")
    parser.add_argument("--quiet", action="store_true", help="say nothing when it is done, for cron")
    options = parser.parse_args()
    try:
        done = rotate(options.store, key=options.key, new=options.new_key, keep_old=options.keep_old)
    except KeystoreError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.quiet:
        print(done.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
