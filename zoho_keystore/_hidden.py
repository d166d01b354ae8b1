"""Keep secrets out of the frames of tracebacks, whose variables tools print (see ``zoho_keystore.errors``).

A public function puts an argument that may be a secret, or hold one, into a :class:`Hidden` in its first lines, and
deletes the argument. What it calls gets the Hidden, or what was made of its value by :func:`without_frames`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Generic, TypeVar

from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Hidden(Generic[_T_co]):
    """Holds a value that its repr does not show.

    Attributes:
        value: The value.
    """

    __slots__ = ("value",)

    def __init__(self, value: _T_co) -> None:
        self.value = value

    @staticmethod
    def of(value: _T | Hidden[_T]) -> Hidden[_T]:
        """Return a value hidden, also one that is already."""
        return value if isinstance(value, Hidden) else Hidden(value)

    def __repr__(self) -> str:
        """Leave the value out."""
        return "<hidden>"


def without_frames(call: Callable[[], _T]) -> _T:
    """Return what a call returns; raise its KeystoreError without the frames of the call, which hold secrets.

    Args:
        call: A function whose repr shows no secret, since this frame holds it: not a ``partial``, which shows its
            arguments.
    """
    handled = sys.exception()
    try:
        return call()
    except KeystoreError as error:
        bare = error
    # What led to the error has frames of its own; what the caller was handling already is not of this call.
    link: BaseException | None = bare
    while link is not None and link is not handled:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    raise bare
