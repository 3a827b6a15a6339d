"""The name of a process among those that take part, and what it says of the process."""

from __future__ import annotations

import os
import secrets
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from taquba._line.joining import MemberInfo


def _own_version() -> str:
    try:
        return version("taquba")
    except PackageNotFoundError:
        # A program that was frozen into one file has no metadata.
        return "unknown"


_VERSION: Final = _own_version()

_LONGEST_PID: Final = 9
"""Digits."""


def this_process(role: str, since_ms: int) -> MemberInfo:
    """This process; each call makes another name."""
    host, pid = socket.gethostname(), os.getpid()
    name = f"{host}:{pid}:{secrets.token_hex(4)}"
    return MemberInfo(name, host, pid, _VERSION, role, since_ms)


def lives(host: str, pid: int) -> bool:
    """Whether a process may live. Of another machine that is not known."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's, or its number is none of this machine.
        return True
    return True


def has_ended(name: str) -> bool:
    """Whether the process of a name, as `this_process` makes it, is known to have ended."""
    match name.rsplit(":", 2):
        case [host, pid, _] if pid.isdecimal() and len(pid) <= _LONGEST_PID and int(pid):
            return not lives(host, int(pid))
        case _:
            return False
