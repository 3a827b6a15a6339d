"""The name of this process among those that take part."""

from __future__ import annotations

import os
import secrets
import socket
from importlib.metadata import version
from typing import Final

from taquba._line.joining import MemberInfo

_VERSION: Final = version("taquba")


def this_member(role: str, since_ms: int) -> MemberInfo:
    """This process; each call makes another name."""
    host, pid = socket.gethostname(), os.getpid()
    name = f"{host}:{pid}:{secrets.token_hex(4)}"
    return MemberInfo(name, host, pid, _VERSION, role, since_ms)
