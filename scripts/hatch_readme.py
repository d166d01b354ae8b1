"""The README as a package index shows it; hatchling runs this when it builds.

The README leads to files beside it. On an index there are none: links and images get the address of the repository
that `[project.urls]` names, at the tag of the version. Without an address, links become text, and images are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?://|#)(?P<path>[^)\s]+)\)")


def for_index(readme: str, repository: str | None, version: str) -> str:
    """Return a README without relative links.

    Args:
        readme: Markdown.
        repository: The address of the repository, or None.
        version: The version that is built; its tag begins with a "v".
    """

    def absolute(link: re.Match[str]) -> str:
        if repository is None:
            return "" if link["image"] else link["text"]
        # An image is shown as it is, and not within a page of the repository.
        kind, query = ("raw", "?sanitize=true") if link["image"] else ("blob", "")
        return f"{link['image']}[{link['text']}]({repository}/{kind}/v{version}/{link['path']}{query})"

    return _LINK.sub(absolute, readme)


class ReadmeHook(MetadataHookInterface):
    """Set the field `readme` of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Read the README, and make it fit for an index."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        version = re.findall(r'"(.+)"', Path(self.root, "zoho_keystore", "_version.py").read_text(encoding="utf-8"))[-1]
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository, version)}
