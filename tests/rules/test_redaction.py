"""Secrets in text that comes from outside are not shown; other text stays as it is."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taquba import InvalidArgument, StoreError
from taquba._model.redaction import redact, without_secrets

PLACES: dict[str, str] = {
    "password of an endpoint": "http://admin:{}@127.0.0.1:9000/bucket/key is not there",
    "password with a port": "Error performing GET https://minio:{}@s3.example:9000/b?page=2 in",
    "key and secret of a store": "s3://AKIAIOSFODNN7:{}@bucket/prefix",
    "a URL with one slash": "s3:/AKIAIOSFODNN7:{}@bucket/prefix is a folder",
    "escaped slashes": '{{"url":"https:\\/\\/me:{}@h.example\\/x"}}',
    "an endpoint without scheme": "connecting to admin:{}@10.0.0.1:6379 failed",
    "SAS signature": "PUT https://a.blob.core.windows.net/c/b?sv=2024-11-04&sig={}&se=2030 is 403",
    "S3 signature": "<https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature={}>",
    "S3 session token": "('https://b.s3.amazonaws.com/k?X-Amz-Security-Token={}', 1)",
    "GCS signature": "url=https://storage.googleapis.com/b/o?X-Goog-Signature={}",
    "secret without a name": "https://hooks.example/run?{}",
    "unknown parameter": "Client error '403 Forbidden' for url 'https://h.example/x?a=1&k={}'",
    "fragment": "redirected to https://app.example/#state=1&access_token={}",
    "redirect to a path": "Location: /next?token={}",
    "header": "headers: Authorization: Bearer {}\nHost: h",
    "basic header": "authorization: Basic {}",
    "header in a dictionary": "{{'Authorization': 'Bearer {}', 'Host': 'h'}}",
    "header in a list": "[(b'Host', b'h'), (b'Authorization', b'Token {}'), (b'X-B', b'c')]",
    "header of S3": "Authorization: AWS4-HMAC-SHA256 Credential=A/B, Signature={}",
    "header line of a canonical request": "host:b.s3\nx-amz-security-token:{}\n\nhost;x-amz",
    "header in JSON": '{{"x-api-key": "{}"}}',
    "cookie": "Set-Cookie: session={}; HttpOnly",
    "connection string": "AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
    "shared access signature": "SharedAccessSignature={}",
    "variable": "AWS_SECRET_ACCESS_KEY={}",
    "variable in quotes": "AWS_SESSION_TOKEN='{}'",
    "ini file": "aws_secret_access_key = {}",
    "JSON": '{{"token": "{}", "name": "a"}}',
    "repr": "Config(url='u', password='{}', retries=3)",
    "Rust": 'AzureConfig {{ sas_token: Some("{}"), account: "a" }}',
    "XML": "<Credentials><SessionToken>{}</SessionToken></Credentials>",
    "XML with a name space": "<aws:SecretAccessKey>{}</aws:SecretAccessKey>",
    "YAML": "user: me\npassword: {}\nhost: h",
    "key file": '"private_key": "-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----"',
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "a key that was cut off": "no key: -----BEGIN EC PRIVATE KEY-----\n{}",
    "signing secret": "whsec_{}",
}
secrets = st.text("abcXYZ0189-_~+/%!*(=", min_size=8, max_size=60).map(lambda text: f"Zq{text}7k")
surroundings = st.sampled_from(["", "x: ", "ClientError: ", "a\nb ", '"', "'", "(", "ä "])


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@given(secret=secrets, before=surroundings, after=surroundings)
def test_no_secret_survives(place: str, secret: str, before: str, after: str) -> None:
    shown = redact(f"{before}{place.format(secret)} {after}")
    assert secret not in shown
    assert "***" in shown
    assert redact(shown) == shown


@given(
    password=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=4).map(
        lambda text: f"Zq{text}7k"
    ),
    host=st.sampled_from(["h.example", "127.0.0.1:9000", "[::1]:9000", "bucket"]),
)
def test_a_password_may_hold_anything_but_white_space(password: str, host: str) -> None:
    assert redact(f"to http://me:{password}@{host}/x failed") == f"to http://***@{host}/x failed"


@given(text=st.lists(st.sampled_from([p.format("Zqabcdefgh7k") for p in PLACES.values()])))
def test_several_places_in_one_text(text: list[str]) -> None:
    assert "Zqabcdefgh7k" not in redact("\n".join(text))


@given(token=st.text("abcXYZ0189-_.~%!", min_size=8).map(lambda text: f"Zq{text}7k"))
def test_a_token_may_be_the_user(token: str) -> None:
    assert redact(f"cloning https://{token}@git.example/x") == "cloning https://***@git.example/x"


ORDINARY = [
    "ValueError: invalid literal for int() with base 10: 'abc'",
    "http://127.0.0.1:9000 does not answer; check that it is up",
    "s3://bucket/prefix: the credentials may not write in the bucket s3://bucket (AccessDenied)",
    "Error performing GET http://h:9000/b?list-type=2&prefix=a%2Fb&max-keys=1 in 3 ms",
    "PUT http://h/b/k?uploads: 503",
    "http://[::1]:9000/@x and https://host:8080/@me",
    "file:///home/a@b/c.json",
    "/home/me/a=b/token/x.py:12",
    "see https://docs.example/guide#effects.",
    "write to bob@example.com or mailto:bob@example.com",
    "image app:1@sha256:abcdef0123456789",
    "serviceAccount:x@p.iam.gserviceaccount.com may not list",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary ones)",
    "the key of an object has 1 to 512 characters",
    "JSONDecodeError: Unexpected token: '}'",
    "invalid token: expected ',' or '}'",
    "the fields 'password', 'name' are missing",
    "password: must not be empty",
    "the secret: nobody knows",
    "KeyError: 'token'",
    "max_tokens=100, temperature=0.5",
    "Basic understanding of bearer bonds",
    "secretary: Miss Moneypenny",
    "x = 5 == y",
    "12:30@noon",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(st.text(st.characters(exclude_characters="=:@/<_-\"'")))
def test_text_in_which_nothing_is_assigned_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(st.text() | st.text("htps:/@?#&='\"x. \n"))
def test_no_text_is_too_much(text: str) -> None:
    shown = redact(text)
    assert redact(shown) == shown


def test_a_text_that_is_very_long_is_cut() -> None:
    shown = redact("https://me:secret@h/" + "x" * 1_000_000)
    assert shown.startswith("https://***@h/x")
    assert shown.endswith("... (1000020 characters)")
    assert len(shown) < 70_000


# -- exceptions ---------------------------------------------------------------------------------

SECRET = "http://me:hunter2@h/?sig=hunter2"


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _raised(*texts: str, how: Callable[[Exception, Exception], None] | None = None) -> Exception:
    try:
        raise OSError(texts[0])
    except OSError as error:
        if len(texts) == 1:
            return error
        try:
            raise KeyError(texts[1]) from error
        except KeyError as second:
            return second


def test_an_exception_without_secrets_stays_itself() -> None:
    error = _raised("no room", "what")
    assert without_secrets(error) is error


@pytest.mark.parametrize("texts", [[SECRET], [SECRET, "what"], ["no room", SECRET]])
def test_no_text_of_a_chain_shows_a_secret(texts: list[str]) -> None:
    error = _raised(*texts)
    shown = _text(without_secrets(error))
    assert "hunter2" in _text(error)
    assert "hunter2" not in shown
    for line in _text(error).splitlines():
        assert "hunter2" in line or line in shown.splitlines()


def test_what_happened_during_handling_shows_no_secret_either() -> None:
    try:
        try:
            raise OSError(SECRET)
        except OSError:
            raise ValueError("later")  # noqa: B904 - its context is what is tested
    except ValueError as error:
        shown = _text(without_secrets(error))
    assert "hunter2" not in shown
    assert "OSError: http://***@h/?sig=***" in shown
    assert "During handling" in shown


def test_notes_and_groups_show_no_secret() -> None:
    noted = ValueError("a")
    noted.add_note(SECRET)
    shown = _text(without_secrets(ExceptionGroup("several", [noted, OSError(SECRET), KeyError(1)])))
    assert "hunter2" not in shown
    assert "ExceptionGroup: several" in shown
    assert "KeyError: 1" in shown


def test_chains_that_bite_their_tail_come_to_an_end() -> None:
    first, second = ValueError(SECRET), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert str(without_secrets(first)) == "http://***@h/?sig=***"


def test_an_exception_that_cannot_say_anything_is_left_as_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    error = Mute()
    assert without_secrets(error) is error


def test_errors_of_taquba_show_no_secrets() -> None:
    for error in (StoreError(f"{SECRET} is down"), InvalidArgument(f"what is {SECRET!r}")):
        assert "hunter2" not in str(error) + repr(error) + str(error.args)
