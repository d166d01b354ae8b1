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
    """Return what a call returns; its KeystoreError, and what led to it, lose the frames of the call.

    The frames of this function's caller, and that of ``call`` as an attribute of it, must hold no secret.
    """
    handled = sys.exception()
    try:
        return call()
    except KeystoreError as error:
        bare = error
    link: BaseException | None = bare
    while link is not None and link is not handled:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    raise bare
