"""Functions of Windows that the standard library lacks: ACLs, and renames that are on the disk when they return."""

from __future__ import annotations

import ctypes
import socket
import sys
from contextlib import contextmanager
from ctypes import wintypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any

assert sys.platform == "win32"  # noqa: S101 - for the type checker

import msvcrt  # noqa: E402 - exists on Windows only

if TYPE_CHECKING:
    from collections.abc import Iterator

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)

_GENERIC_READ = 0x80000000
_GENERIC_WRITE = 0x40000000
_FILE_SHARE_READ_WRITE = 0x1 | 0x2
_CREATE_NEW = 1
_FILE_ATTRIBUTE_NORMAL = 0x80
_INVALID_HANDLE = wintypes.HANDLE(-1).value
_MOVEFILE_REPLACE_EXISTING = 0x1
_MOVEFILE_WRITE_THROUGH = 0x8
_TOKEN_QUERY = 0x8
_TOKEN_USER = 1
_SDDL_REVISION_1 = 1
_SE_FILE_OBJECT = 1
_DACL_SECURITY_INFORMATION = 0x4
_ACCESS_ALLOWED_ACE_TYPE = 0
_INHERIT_ONLY_ACE = 0x8

#: Add files, add directories, delete what is in a directory, delete it, change its ACL, its owner; all, or all writing.
_WRITERS = 0x2 | 0x4 | 0x40 | 0x10000 | 0x40000 | 0x80000 | 0x10000000 | 0x40000000

#: The system, the administrators (both can take any file anyway), and what stands for the owner of a file.
_TRUSTED_SIDS = {"S-1-5-18", "S-1-5-32-544", "S-1-3-0", "S-1-3-4"}
_EVERYONE = "S-1-1-0"


class _SecurityAttributes(ctypes.Structure):
    _fields_ = (
        ("length", wintypes.DWORD),
        ("descriptor", wintypes.LPVOID),
        ("inherit", wintypes.BOOL),
    )


class _AclHeader(ctypes.Structure):
    _fields_ = (
        ("revision", ctypes.c_ubyte),
        ("padding", ctypes.c_ubyte),
        ("size", wintypes.WORD),
        ("count", wintypes.WORD),
        ("padding_2", wintypes.WORD),
    )


class _AceHeader(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_ubyte),
        ("flags", ctypes.c_ubyte),
        ("size", wintypes.WORD),
        ("mask", wintypes.DWORD),
    )


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


_move_file = _function(_kernel32, "MoveFileExW", wintypes.BOOL, wintypes.LPCWSTR, wintypes.LPCWSTR, wintypes.DWORD)
_create_file = _function(
    _kernel32,
    "CreateFileW",
    wintypes.HANDLE,
    wintypes.LPCWSTR,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.HANDLE,
)
_create_directory = _function(_kernel32, "CreateDirectoryW", wintypes.BOOL, wintypes.LPCWSTR, wintypes.LPVOID)
_close_handle = _function(_kernel32, "CloseHandle", wintypes.BOOL, wintypes.HANDLE)
_local_free = _function(_kernel32, "LocalFree", wintypes.HLOCAL, wintypes.LPVOID)
_current_process = _function(_kernel32, "GetCurrentProcess", wintypes.HANDLE)
_console_mode = _function(_kernel32, "GetConsoleMode", wintypes.BOOL, wintypes.HANDLE, wintypes.LPVOID)
_peek_pipe = _function(
    _kernel32,
    "PeekNamedPipe",
    wintypes.BOOL,
    wintypes.HANDLE,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.LPVOID,
    wintypes.LPVOID,
    wintypes.LPVOID,
)
_open_token = _function(_advapi32, "OpenProcessToken", wintypes.BOOL, wintypes.HANDLE, wintypes.DWORD, wintypes.LPVOID)
_token_information = _function(
    _advapi32,
    "GetTokenInformation",
    wintypes.BOOL,
    wintypes.HANDLE,
    ctypes.c_int,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.LPVOID,
)
_sid_to_string = _function(
    _advapi32, "ConvertSidToStringSidW", wintypes.BOOL, wintypes.LPVOID, ctypes.POINTER(wintypes.LPWSTR)
)
_string_to_descriptor = _function(
    _advapi32,
    "ConvertStringSecurityDescriptorToSecurityDescriptorW",
    wintypes.BOOL,
    wintypes.LPCWSTR,
    wintypes.DWORD,
    wintypes.LPVOID,
    wintypes.LPVOID,
)
_named_security = _function(
    _advapi32,
    "GetNamedSecurityInfoW",
    wintypes.DWORD,
    wintypes.LPCWSTR,
    ctypes.c_int,
    wintypes.DWORD,
    wintypes.LPVOID,
    wintypes.LPVOID,
    wintypes.LPVOID,
    wintypes.LPVOID,
    wintypes.LPVOID,
)
_get_ace = _function(_advapi32, "GetAce", wintypes.BOOL, wintypes.LPVOID, wintypes.DWORD, wintypes.LPVOID)
_lookup_account = _function(
    _advapi32,
    "LookupAccountSidW",
    wintypes.BOOL,
    wintypes.LPCWSTR,
    wintypes.LPVOID,
    wintypes.LPWSTR,
    wintypes.LPVOID,
    wintypes.LPWSTR,
    wintypes.LPVOID,
    wintypes.LPVOID,
)


def _require(succeeded: object) -> None:
    if not succeeded:
        raise ctypes.WinError(ctypes.get_last_error())


def replace(source: str, target: str) -> None:
    """Rename a file over another one; the rename is on the disk afterwards. The file keeps its own ACL."""
    _require(_move_file(source, target, _MOVEFILE_REPLACE_EXISTING | _MOVEFILE_WRITE_THROUGH))


def create_file(path: str, flags: int) -> int:
    """Create a file with an ACL of the owner, and return its descriptor; FileExistsError if the name is taken.

    An ACL that is set after the file was made would leave a moment in which another user can open it.
    """
    with _private(inheritance="") as security:
        handle = _create_file(
            path,
            _GENERIC_READ | _GENERIC_WRITE,
            _FILE_SHARE_READ_WRITE,
            security,
            _CREATE_NEW,
            _FILE_ATTRIBUTE_NORMAL,
            None,
        )
    _require(handle != _INVALID_HANDLE)
    try:
        return msvcrt.open_osfhandle(handle, flags)
    except OSError:
        _close_handle(handle)
        raise


def make_directory(path: str) -> None:
    """Make a directory with an ACL of the owner, which files in it inherit; FileExistsError if the name is taken."""
    with _private(inheritance="OICI") as security:
        _require(_create_directory(path, security))


def others_with_access(path: str, *, only_writers: bool = False) -> list[str]:
    """Return the users and groups besides the owner, the system and its administrators that an ACL lets in.

    Args:
        path: The file or directory.
        only_writers: Whether to leave out those that may only read.
    """
    acl, descriptor = ctypes.c_void_p(), ctypes.c_void_p()
    code = _named_security(
        path, _SE_FILE_OBJECT, _DACL_SECURITY_INFORMATION, None, None, ctypes.byref(acl), None, ctypes.byref(descriptor)
    )
    if code:
        raise ctypes.WinError(code)
    try:
        if not acl.value:
            return [_EVERYONE]
        sids = {_sid_text(sid): sid for sid in _allowed(acl.value, _WRITERS if only_writers else ~0)}
        trusted = {_own_sid(), *_TRUSTED_SIDS}
        return sorted(_account(address) or text for text, address in sids.items() if text not in trusted)
    finally:
        _local_free(descriptor)


def reserve_port(server: socket.socket) -> None:
    """Keep other programs from listening on the port of a socket, which is bound afterwards."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)


def is_console(fd: int) -> bool:
    """Tell whether a descriptor is a console."""
    return bool(_console_mode(msvcrt.get_osfhandle(fd), ctypes.byref(wintypes.DWORD())))


def available(pipe: int) -> int:
    """Return how many bytes can be read from a pipe at once; 0 when the writer has ended, too."""
    number = wintypes.DWORD()
    if not _peek_pipe(msvcrt.get_osfhandle(pipe), None, 0, None, ctypes.byref(number), None):
        return 0
    return number.value


def _allowed(acl: int, rights: int) -> Iterator[int]:
    """Yield the addresses of the SIDs that an ACL allows one of some rights."""
    for index in range(_AclHeader.from_address(acl).count):
        ace = ctypes.c_void_p()
        _require(_get_ace(acl, index, ctypes.byref(ace)))
        assert ace.value is not None  # noqa: S101 - for the type checker: the call has succeeded
        header = _AceHeader.from_address(ace.value)
        if header.type == _ACCESS_ALLOWED_ACE_TYPE and header.mask & rights and not header.flags & _INHERIT_ONLY_ACE:
            yield ace.value + ctypes.sizeof(_AceHeader)


@contextmanager
def _private(*, inheritance: str) -> Iterator[Any]:
    """Give the security attributes of something that its owner, the system and its administrators may use.

    OpenSSH asks for the same of a private key. The system's backups and virus scanners go on working.
    """
    entries = "".join(f"(A;{inheritance};FA;;;{sid})" for sid in (_own_sid(), "SY", "BA"))
    descriptor = ctypes.c_void_p()
    # P: what the directory's ACL says is not inherited.
    _require(_string_to_descriptor(f"D:P{entries}", _SDDL_REVISION_1, ctypes.byref(descriptor), None))
    try:
        yield ctypes.byref(
            _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False)  # noqa: FBT003 - a field
        )
    finally:
        _local_free(descriptor)


@lru_cache(maxsize=1)
def _own_sid() -> str:
    token = wintypes.HANDLE()
    _require(_open_token(_current_process(), _TOKEN_QUERY, ctypes.byref(token)))
    try:
        size = wintypes.DWORD()
        _token_information(token, _TOKEN_USER, None, 0, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        _require(_token_information(token, _TOKEN_USER, buffer, size, ctypes.byref(size)))
        # TOKEN_USER starts with the address of the SID.
        return _sid_text(ctypes.c_void_p.from_buffer(buffer).value)
    finally:
        _close_handle(token)


def _sid_text(sid: int | None) -> str:
    text = wintypes.LPWSTR()
    _require(_sid_to_string(sid, ctypes.byref(text)))
    try:
        return str(text.value)
    finally:
        _local_free(text)


def _account(sid: int) -> str:
    r"""Return the name of a SID: ``DOMAIN\\user``; empty where it is not known."""
    name, domain = ctypes.create_unicode_buffer(256), ctypes.create_unicode_buffer(256)
    sizes = wintypes.DWORD(256), wintypes.DWORD(256)
    kind = ctypes.c_int()
    if not _lookup_account(None, sid, name, ctypes.byref(sizes[0]), domain, ctypes.byref(sizes[1]), ctypes.byref(kind)):
        return ""
    return "\\".join(filter(None, (domain.value, name.value)))
