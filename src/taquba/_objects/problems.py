"""Problems of an object store, with their remedies."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from taquba._model.errors import StoreError
from taquba._model.redaction import redact
from taquba._objects.location import StoreLocation
from taquba._objects.places import Place


class Problem(Exception):
    """Something that the store does not do, or did not allow.

    Attributes:
        what: The observation.
        remedy: How to fix it.
        permanent: True if trying again cannot help.
        one_action: It says nothing about other actions at the same place.
    """

    def __init__(
        self, what: str, remedy: str, *, permanent: bool = True, one_action: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.permanent = permanent
        self.one_action = one_action

    def as_error(self, location: StoreLocation) -> StoreError:
        return StoreError(f"{location.url}: {self.what}; {self.remedy}", permanent=self.permanent)


class _Provider(NamedTuple):
    credentials: str
    endpoint: str
    allow_http: str


_PROVIDERS: Final = {
    "s3": _Provider(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary ones)",
        "AWS_ENDPOINT (unset for Amazon S3 itself) and AWS_REGION",
        "AWS_ALLOW_HTTP",
    ),
    "gs": _Provider(
        "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (the path of a key file)",
        "the network, and the proxy settings of this process",
        "GOOGLE_ALLOW_HTTP",
    ),
    "az": _Provider(
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or a SAS token, or "
        "AZURE_CLIENT_ID and AZURE_CLIENT_SECRET)",
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ENDPOINT",
        "AZURE_ALLOW_HTTP",
    ),
}


_SILENCE: Final = "no answer in time"


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    what: str
    remedy: str
    permanent: bool = True
    one_action: bool = False
    """It says nothing about other actions at the same place."""


def _rule(
    pattern: str, what: str, remedy: str, *, permanent: bool = True, one_action: bool = False
) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), what, remedy, permanent, one_action)


# The client library reports most failures as one kind of error, so its text has to tell them
# apart. The first rule that matches counts: a failing look-up of credentials also names a status.
_RULES: Final = (
    _rule(
        r"/latest/api/token|/computeMetadata/|/metadata/identity/|token request|Missing\w*Key"
        r"|MissingAccount|InvalidAccessKey\b|credentials? file",
        "no usable credentials were found",
        "set {credentials}",
    ),
    _rule(
        r"object with invalid path",
        "the {bucket} has a key that cannot be listed and hides others: {key}",
        "remove that object, or give it another name",
        permanent=False,
    ),
    _rule(
        r"RequestTimeTooSkewed",
        "the store refuses requests from this machine, whose clock is wrong",
        "set the clock, and keep it synchronised (NTP)",
    ),
    _rule(
        r"NoSuchBucket|ContainerNotFound|status code: 404",
        "there is no {bucket} at {endpoint}",
        "create it, or correct the URL; the endpoint comes from {endpoint_settings}",
    ),
    _rule(
        r"redirect without LOCATION|PermanentRedirect|AuthorizationHeaderMalformed",
        "the {bucket} is in another region",
        "set {endpoint_settings}",
    ),
    _rule(
        r"status code: 401|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken"
        r"|AuthenticationFailed|AuthFailure",
        "{endpoint} refuses the credentials{code}",
        "check {credentials}",
    ),
    _rule(
        r"status code: 403|AccessDenied",
        "the credentials may not {action} in the {bucket}{code}",
        "allow them to list, read, write and delete there, or check {credentials}",
        one_action=True,
    ),
    _rule(
        r"builder error|rust future panicked",
        "{endpoint} cannot be used as an endpoint",
        "correct it; it must begin with https://, or with http:// and then needs {allow_http}=true",
    ),
    _rule(
        r"status code: (?:409|412)",
        "{endpoint} did not {action}, because of another request at the same time{code}",
        "try again later",
        permanent=False,
    ),
    _rule(
        r"status code: (?:429|5\d\d)",
        "{endpoint} fails, or is overloaded{code}",
        "try again later",
        permanent=False,
    ),
    _rule(
        r"error sending request|operation timed out",
        "{endpoint} does not answer",
        "check that it is up and can be reached from here, and {endpoint_settings}",
        permanent=False,
    ),
    _rule(
        _SILENCE,
        "the store does not answer",
        "check that it can be reached from here, and {endpoint_settings}; without credentials in "
        "the environment a metadata service is asked for them, which not every machine has: set "
        "{credentials}",
        permanent=False,
    ),
)


def explain(location: StoreLocation, error: Exception, action: str) -> Problem:
    """An error of the object store's client, raised while it should `action`, as a problem.

    `action` begins with its verb. What a place refuses that has worked before is not permanent.
    """
    if location.folder is not None:
        return Problem(
            f"cannot {action} in {location.folder}: {_reason(error)}",
            "choose a local folder with free space that this user can read and write",
        )
    provider = _PROVIDERS[location.scheme]
    text = _SILENCE if isinstance(error, TimeoutError) else redact(str(error))
    endpoint = re.search(r"https?://[^/\s?]+", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    key = re.search(r"[Pp]ath \"(.*?)\"(?: contained|: )", text, re.DOTALL)
    words = {
        "action": action,
        "bucket": f"bucket {location.scheme}://{location.bucket}",
        "endpoint": endpoint[0] if endpoint else "the store's endpoint",
        "code": f" ({code[1]})" if code else "",
        "key": ascii(key[1]) if key else "its name is not known",
        "credentials": provider.credentials,
        "endpoint_settings": provider.endpoint,
        "allow_http": provider.allow_http,
    }
    for rule in _RULES:
        if rule.pattern.search(text):
            return Problem(
                rule.what.format_map(words),
                rule.remedy.format_map(words),
                permanent=rule.permanent and not _has_worked(location, rule, action),
                one_action=rule.one_action,
            )
    return Problem(
        f"cannot {action}: {_reason(error)}",
        f"check {provider.endpoint}, and {provider.credentials}",
        permanent=False,
    )


def _has_worked(location: StoreLocation, rule: _Rule, action: str) -> bool:
    return Place(location).has_worked(action.partition(" ")[0] if rule.one_action else None)


def _reason(error: Exception) -> str:
    """What the system or the client says, without the dump of its internals that follows."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return redact(str(error).partition("\n")[0]) or type(error).__name__
