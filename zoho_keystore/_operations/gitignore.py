"""Whether git ignores a file, told without running git."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_FILE_BYTES = 256 * 1024


def work_tree(path: Path) -> Path | None:
    """Return the git work tree that a file is in, the innermost one; None if it is in none."""
    return next((directory for directory in path.parents if os.path.exists(directory / ".git")), None)


def is_ignored(path: Path, tree: Path) -> bool:
    """Tell whether git ignores a file, as the files of patterns in the work tree and the user's default one tell.

    git itself is not asked: it runs programs that the repository's configuration names.
    """
    patterns = [
        *_patterns(_git_config_directory() / "ignore", tree),
        *_patterns(tree / ".git" / "info" / "exclude", tree),
    ]
    for place in (*reversed(path.relative_to(tree).parents), path.relative_to(tree)):
        here = tree / place
        matching = [pattern for pattern in patterns if pattern.matches(here, is_directory=here != path)]
        # A file in an ignored directory is ignored, whatever other patterns say.
        if matching and not matching[-1].is_negative:
            return True
        patterns += _patterns(here / ".gitignore", here)
    return False


def _git_config_directory() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "git"


class _Pattern(NamedTuple):
    """A line of a .gitignore file.

    Attributes:
        base: The directory that it is for.
        parts: What each part of a path has to match; ``**`` is any number of parts.
        is_negative: Whether what it matches is not ignored.
        is_for_directories: Whether it matches directories only.
    """

    base: Path
    parts: tuple[str, ...]
    is_negative: bool
    is_for_directories: bool

    def matches(self, path: Path, *, is_directory: bool) -> bool:
        """Tell whether the pattern matches a path below its base."""
        if self.is_for_directories and not is_directory:
            return False
        return path != self.base and _match_parts(self.parts, path.relative_to(self.base).parts)


def _patterns(file: Path, base: Path) -> Iterator[_Pattern]:
    try:
        text = read_private_file(file, max_bytes=_MAX_FILE_BYTES, check=None).content.decode("utf-8", "replace")
    except (OSError, KeystoreError, FileTooLargeError):
        return
    for line in text.splitlines():
        pattern = line.rstrip()
        if not pattern or pattern.startswith("#"):
            continue
        is_negative = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        inner = pattern.removesuffix("/")
        anchored = inner if "/" in inner else f"**/{inner}"
        parts = tuple(anchored.removeprefix("/").split("/"))
        yield _Pattern(base, parts, is_negative, pattern.endswith("/"))


def _match_parts(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    # By the numbers of names that the parts so far can match: trying each number for each ** anew would take years for
    # a pattern with many of them, and the files of patterns are the repository's.
    matched = {0}
    for part in pattern:
        if part == "**":
            matched = set(range(min(matched), len(names) + 1))
        else:
            matched = {end + 1 for end in matched if end < len(names) and fnmatchcase(names[end], part)}
        if not matched:
            return False
    return len(names) in matched
