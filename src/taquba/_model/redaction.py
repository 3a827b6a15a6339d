"""Secrets taken out of text that comes from outside: of clients, of URLs, of handlers' errors.

Such text ends in exceptions, logs and `last_error`, which more people may read than may know the
secrets in it. A value in the place of a secret is replaced, whether it looks like one or not. The
names around it stay, so that a person still sees what was sent where.
"""

from __future__ import annotations

import re
from typing import Final, cast

MASK: Final = "***"

_LONGEST: Final = 64 * 1024
"""Characters of a text that are examined; the rest is cut off."""

_HINTS: Final = (
    *(":/", ":\\/", "=", "@", "</", "-----begin"),
    *("key", "token", "secret", "sig", "passw", "passphrase", "pwd", "jwt", "credential"),
    *("session", "authorization", "cookie", "bearer", "basic"),
    *("whsec_", "eyj", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "glpat-"),
)
"""All text that is changed has one of these, in some case; most text has none."""

_USER: Final = re.compile(
    # A port that is not a number is a password with a slash in it.
    r"(:\\?/\\?/?)(?!\[)"
    r"(?:[^\s/?#@]{0,999}:(?!\d{0,5}(?:[/?#\s]|$))\S{0,999}@|(?<=/)[^\s/?#]{0,999}@)"
)
_BARE_USER: Final = re.compile(
    r"(?<![^\s\"'`(\[{<=,])(?!(?:\d+|mailto|sips?|xmpp|acct|serviceAccount|group|arn|to|cc|bcc):)"
    r"[\w.~%+-]{1,99}:(?!/)[^\s@\"']{1,999}@(?!sha\d)(?=[\w\[])"
)
"""An endpoint without its scheme."""

_URL_WITH_PARAMETERS: Final = re.compile(r"(:\\?/[^\s?#\"<>]{0,2000})([?#][^\s\"<>]*)")
_PARAMETER: Final = re.compile(r"([?&#])(?:([^=&#?]*)=)?([^&#]*)")
_HARMLESS: Final = frozenset(
    (
        *("acl", "comp", "delete", "delimiter", "fields", "include", "limit", "list", "list-type"),
        *("marker", "max-keys", "maxResults", "maxresults", "offset", "page", "partNumber"),
        *("prefix", "projection", "restype", "start-after", "timeout", "uploads", "versions"),
    )
)
"""Harmless parameters of object stores and of listings: they name what was requested."""

_HEADER: Final = r"(?:proxy-)?authorization|(?:set-)?cookie"
_COMPOUND: Final = (
    r"(?:secret|client|session|access|refresh|security|auth|id|sas|bearer|csrf|xsrf|api|user)"
    r"[_-]?(?:access[_-]?)?(?:token|secret|key|signature)"
    r"|(?:account|private|signing|shared|encryption|license)[_-]?(?:access[_-]?)?(?:key|signature)"
    r"|(?:webhook|hub|amz)-signature(?:-256)?|password|passwd|passphrase"
)
"""Names that are hardly ever anything but the name of a secret."""
_LOOSE: Final = r"pwd|secret|token|signature|\bsig|credentials?|jwt|session[_-]?id"
"""Names that are words of sentences as well."""

_NAMED: Final = re.compile(
    rf"(?:(?P<header>\b(?:{_HEADER}))|(?P<compound>{_COMPOUND})|(?P<loose>{_LOOSE}))"
    r"(?P<closed>\\?[\"'])?(?P<between>\s*[:=]\s*|,\s*(?=b?[\"']))(?P<some>Some\(\s*)?"
    r"(?:b?(?P<open>\\?[\"'])(?P<quoted>(?:(?!(?P=open))(?:\\.|[^\\]))*)"
    r"|(?P<bare>(?(header)[^\r\n]+|[^\s&;\"<>]+)))",
    re.IGNORECASE | re.DOTALL,
)
_LONG_WORD: Final = 16
_LITERAL_ENDS: Final = re.compile(r"['`][)\],:;}]")
_ELEMENT: Final = re.compile(
    rf"(<([\w:]*(?:{_COMPOUND}|{_LOOSE})\w*)>)[^<]+(?=</\2>)", re.IGNORECASE
)
_CREDENTIALS: Final = re.compile(
    r"\b((?i:Bearer|Basic) +)(?=[\w.~+/-]*(?:\d|[a-z][A-Z]|[A-Z]{2})|[\w.~+/-]{20})[\w.~+/=-]{6,}"
)
_PRIVATE_KEY: Final = re.compile(
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL
)
_KNOWN_FORM: Final = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?|\bwhsec_[A-Za-z0-9+/=_-]+"
    r"|\b(?:gh[opsur]_|github_pat_|xox[abeoprs]-|sk_live_|glpat-)[\w-]{8,}"
)


def redact(text: str) -> str:
    """Return a text without its secrets; any other text as it is.

    These are replaced by ``***``: user and password of URLs; the values of parameters of URLs,
    except a few harmless ones; the value that follows the name of a secret (``password=``,
    ``X-Amz-Signature=``, ``AccountKey=``, ``"session_token": "``, ...); the values of
    ``Authorization`` and cookie headers; private keys, JSON Web Tokens, and tokens with a known
    beginning. A text of more than 65,536 characters is shortened, with a note.
    """
    if len(text) > _LONGEST:
        return f"{redact(text[:_LONGEST])}... ({len(text)} characters)"
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    if "@" in text:
        text = _USER.sub(rf"\1{MASK}@", text)
        text = _BARE_USER.sub(f"{MASK}@", text)
    if "?" in text or "#" in text:
        text = _URL_WITH_PARAMETERS.sub(_url, text)
    text = _PRIVATE_KEY.sub(rf"\1{MASK}", text)
    text = _without_named(text)
    if "</" in text:
        text = _ELEMENT.sub(rf"\1{MASK}", text)
    text = _CREDENTIALS.sub(rf"\1{MASK}", text)
    return _KNOWN_FORM.sub(MASK, text)


def _url(found: re.Match[str]) -> str:
    return found[1] + _PARAMETER.sub(_parameter, found[2])


def _parameter(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    if name is None:
        # A fragment is a place in a page.
        plain = before == "#" or value[: _end_of(value)] in _HARMLESS
        return before + (value if plain else _masked(value))
    return f"{before}{name}={value if name in _HARMLESS else _masked(value)}"


def _masked(value: str) -> str:
    end = _end_of(value)
    return f"{MASK}{value[end:]}" if end else value


def _end_of(value: str) -> int:
    """Where a value ends, before what follows it in a sentence or in a literal."""
    literal = _LITERAL_ENDS.search(value)
    if literal is not None:
        value = value[: literal.start()]
    return len(value.rstrip("'`)],.:;}|"))


def _without_named(text: str) -> str:
    parts: list[str] = []
    done = at = 0
    while found := _NAMED.search(text, at):
        start, end = _secret_in(found)
        if start < end:
            parts += (text[done:start], MASK)
            done = at = end
        else:
            # There may be another name in what follows this one.
            at = found.end("between")
    return "".join((*parts, text[done:]))


def _secret_in(found: re.Match[str]) -> tuple[int, int]:
    """The span of the secret that follows a name; empty if no secret follows."""
    none = 0, 0
    between = found["between"]
    if found["quoted"] is not None:
        if found["loose"] is not None:
            told = "=" in between or (found["closed"] and "," not in between) or found["some"]
        else:
            # Pairs of headers; other pairs of quoted words are lists of names.
            name = found["header"] or (found["compound"] if "-" in found["compound"] else None)
            told = "," not in between or (found["closed"] is not None and name is not None)
        return found.span("quoted") if told else none
    start, end = found.span("bare")
    if found["header"] is not None:
        return start, end
    end = start + _end_of(found["bare"])
    if between == "=":
        return start, end
    if found["loose"] is not None and "=" not in between:
        return none
    word = found["bare"]
    rest = found.string[found.end() :].lstrip(" \t")[:1]
    # Otherwise it continues like a sentence.
    alone = rest in '\r\n;"<>)]}' or word.endswith(",")
    return (start, end) if alone or len(word) >= _LONG_WORD or re.search(r"\d", word) else none


def without_secrets(error: BaseException) -> BaseException:
    """Return an exception whose traceback may be shown: the given one, or a replacement.

    The texts of an exception, of its causes and of its notes may show secrets. The replacement has
    its name, its traceback, and its text without secrets.
    """
    try:
        return _stand_in(error, {})
    except BaseException:
        # Its own methods do not let it be looked at. Whoever logs it goes on.
        name = type.__dict__["__name__"].__get__(type(error))
        return RuntimeError(f"an exception of type {name}, which cannot be shown")


def _stand_in(error: BaseException, known: dict[int, BaseException]) -> BaseException:
    if id(error) in known:
        return known[id(error)]
    known[id(error)] = error
    hidden = None if error.__suppress_context__ else error.__context__
    related = [error.__cause__, hidden, *_members(error)]
    safe = [None if one is None else _stand_in(one, known) for one in related]
    texts = [_text_of(error), *map(str, getattr(error, "__notes__", ()))]
    message, *notes = map(redact, texts)
    if [message, *notes] != texts or any(a is not b for a, b in zip(safe, related, strict=True)):
        known[id(error)] = _like(error, message, notes, safe)
    return known[id(error)]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def _text_of(error: BaseException) -> str:
    try:
        return error.message if isinstance(error, BaseExceptionGroup) else str(error)
    except Exception:
        # Whoever prints it says so.
        return ""


def _like(
    error: BaseException, message: str, notes: list[str], related: list[BaseException | None]
) -> BaseException:
    cause, context, *members = related
    kind = type(error)
    base = BaseExceptionGroup if members else Exception
    named = type(
        kind.__name__, (base,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    )
    arguments = (message, members) if members else (message,)
    like = cast("BaseException", named(*arguments))
    for note in notes:
        like.add_note(note)
    like.__cause__, like.__context__ = cause, context
    like.__suppress_context__ = error.__suppress_context__
    return like.with_traceback(error.__traceback__)
