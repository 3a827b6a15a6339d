"""A small S3-compatible server on loopback, in this process, that can be told to misbehave.

It can speak with clients of Google Cloud Storage as well.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

# Refusals of every request: fault -> (status, code).
REFUSALS: Mapping[str, tuple[int, str]] = {
    "unknown key": (403, "InvalidAccessKeyId"),
    "wrong secret": (403, "SignatureDoesNotMatch"),
    "no rights": (403, "AccessDenied"),
    "skewed request": (403, "RequestTimeTooSkewed"),
    "no bucket": (404, "NoSuchBucket"),
    "other region": (301, "PermanentRedirect"),
    "busy": (503, "SlowDown"),
}


@dataclass(frozen=True)
class Odd:
    """An answer that is not what happened.

    Attributes:
        status: Of the answer; 0 resets the connection instead.
        code: Of the error in it.
        carried_out: The request was carried out all the same.
    """

    status: int
    code: str = ""
    carried_out: bool = False


OddRule = Callable[[str, str, bool], "Odd | None"]
"""What to answer oddly: told the method, the key, and whether the request is conditional. The key
of a listing is ``LIST`` and its prefix; a removal of many has none."""


def once(method: str, part: str, odd: Odd, *, conditional: bool = False) -> OddRule:
    """Answer the first request oddly whose key has `part` in it; listings do not count."""
    left = [odd]

    def rule(command: str, key: str, is_conditional: bool) -> Odd | None:
        if command != method or part not in key or key.startswith("LIST ") or not left:
            return None
        return left.pop() if is_conditional or not conditional else None

    return rule


@dataclass
class StoredObject:
    data: bytes
    written_at: datetime
    generation: int = field(default_factory=count(1).__next__)

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'

    def headers(self) -> dict[str, str]:
        return {"ETag": self.etag, "x-goog-generation": str(self.generation)}


class FaultyS3:
    """One bucket. `faults` says in which ways it misbehaves; empty, it behaves.

    Attributes:
        objects: Everything stored, by key.
        requests: Method, key or query, and status of each request so far.
        clock_skew: How far its clock is ahead.
        read_seconds: How long it takes to read an object.
        odd: Says which requests are answered oddly.
        short_reads: How many of the next reads get the first half, as if that was all.
        page_size: How many keys a listing shows at most.
    """

    root = "s3://bucket"

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.objects: dict[str, StoredObject] = {}
        self.first_contents: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.clock_skew = timedelta()
        self.read_seconds = 0.0
        self.odd: OddRule | None = None
        self.short_reads = 0
        self.page_size = 1000
        self.lock = threading.Lock()
        self.ended = threading.Event()
        outer = self

        class Handler(_Handler):
            server_state = outer

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._http.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_skew

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class FaultyGCS(FaultyS3):
    """The same with the protocol of Google Cloud Storage, which is nearly that of S3."""

    root = "gs://bucket"

    def environment(self) -> Mapping[str, str]:
        account = {
            "gcs_base_url": f"http://127.0.0.1:{self._http.server_port}",
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Beyond these, connections wait for seconds before they are made.
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that gave up has closed its connection.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server_state: FaultyS3
    protocol_version = "HTTP/1.1"
    # Header and body go out as two packets; the second must not wait for an acknowledgement.
    disable_nagle_algorithm = True
    _muted = False

    def do_GET(self) -> None:
        self._serve(self._list if "list-type" in self._query else self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_PUT(self) -> None:
        self._serve(self._put_part if "uploadId" in self._query else self._put)

    def do_POST(self) -> None:
        if "uploads" in self._query:
            self._serve(self._begin_upload)
        elif "uploadId" in self._query:
            self._serve(self._complete_upload)
        else:
            self._serve(self._delete_many)

    def do_DELETE(self) -> None:
        if "uploadId" in self._query:
            self._serve(self._abort_upload)
        else:
            self._serve(lambda _body: self._delete(self._key))

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").lstrip("/")

    @property
    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _serve(self, operation: object) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state = self.server_state
        if "silent" in state.faults:
            state.ended.wait()
            self.close_connection = True
            return
        for fault, (status, code) in REFUSALS.items():
            if fault in state.faults:
                self._refuse(status, code)
                return
        assert callable(operation)
        odd = self._odd()
        if odd is None:
            operation(body)
            return
        if odd.carried_out:
            self._muted = True
            operation(body)
            self._muted = False
        if odd.status:
            self._refuse(odd.status, odd.code)
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _odd(self) -> Odd | None:
        if self.server_state.odd is None:
            return None
        key = self._key
        if "list-type" in self._query:
            key = f"LIST {self._query.get('prefix', [''])[0]}"
        return self.server_state.odd(
            self.command, key, any(name in self.headers for name in CONDITIONS)
        )

    def _list(self, _body: bytes) -> None:
        state = self.server_state
        prefix, delimiter, offset, token = (
            self._query.get(name, [""])[0]
            for name in ("prefix", "delimiter", "start-after", "continuation-token")
        )
        if "ignored offsets" in state.faults:
            offset = ""
        elif "inclusive offsets" in state.faults:
            offset = offset[:-1]
        # A token is the last key, or prefix of keys, of the page before.
        offset = max(offset, unquote(token))
        with state.lock:
            found = dict(state.objects)
        if "stale lists" in state.faults:
            found = {k: o for k, o in found.items() if state.now() - o.written_at > HOUR}
        shown: dict[str, StoredObject | None] = {}
        for key in sorted(found):
            if not key.startswith(prefix):
                continue
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                shown[prefix + rest.partition(delimiter)[0] + delimiter] = None
            else:
                shown[key] = found[key]
        left = [key for key in shown if key > offset]
        page = left[: state.page_size]
        items = "".join(map(listed, page, map(shown.get, page)))
        if len(left) > len(page):
            items += (
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>"
            )
        self._answer(200, f"<ListBucketResult>{items}</ListBucketResult>".encode())

    def _get(self, _body: bytes) -> None:
        state = self.server_state
        state.ended.wait(state.read_seconds)
        with state.lock:
            found = state.objects.get(self._key)
        if found is None:
            self._refuse(404, "NoSuchKey")
            return
        data, status = found.data, 200
        if "stale reads" in state.faults:
            data = state.first_contents[self._key]
        with state.lock:
            if state.short_reads:
                state.short_reads -= 1
                data = data[: len(data) // 2]
        headers = found.headers()
        headers["Last-Modified"] = format_datetime(found.written_at, usegmt=True)
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last), len(data) - 1) if first and last else len(data) - 1
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self._answer(status, data, headers)

    def _put(self, body: bytes) -> None:
        state = self.server_state
        neighbour = not self._key.startswith("prefix/")
        if "read only" in state.faults or (neighbour and "read only neighbours" in state.faults):
            self._refuse(403, "AccessDenied")
            return
        for provider in ("amz", "goog"):
            if (source := self.headers.get(f"x-{provider}-copy-source")) is not None:
                self._copy(unquote(source).lstrip("/").partition("/")[2])
                return
        if "torn creates" in state.faults and self.headers.get("If-None-Match"):
            # Looks before it locks, as a gateway in front of a file system may do.
            exists = self._key in state.objects
            time.sleep(0.05)
            with state.lock:
                self._answer_put(body, refused=exists)
            return
        with state.lock:
            self._answer_put(body, refused=self._precondition_fails())

    def _copy(self, source: str) -> None:
        state = self.server_state
        with state.lock:
            found = state.objects.get(source)
            if found is None:
                self._refuse(404, "NoSuchKey")
                return
            state.objects[self._key] = StoredObject(found.data, state.now())
        self._answer(
            200, f"<CopyObjectResult><ETag>{escape(found.etag)}</ETag></CopyObjectResult>".encode()
        )

    @property
    def _upload(self) -> str:
        return self._query["uploadId"][0]

    def _begin_upload(self, _body: bytes) -> None:
        state = self.server_state
        with state.lock:
            upload = str(len(state.uploads) + 1)
            state.uploads[upload] = {}
        self._answer(
            200,
            f"<InitiateMultipartUploadResult><Key>{escape(self._key)}</Key>"
            f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode(),
        )

    def _put_part(self, body: bytes) -> None:
        self.server_state.uploads[self._upload][int(self._query["partNumber"][0])] = body
        self._answer(200, b"", {"ETag": StoredObject(body, self.server_state.now()).etag})

    def _complete_upload(self, _body: bytes) -> None:
        state = self.server_state
        with state.lock:
            if self._precondition_fails():
                self._refuse(412, "PreconditionFailed")
                return
            parts = state.uploads[self._upload]
            stored = StoredObject(b"".join(parts[n] for n in sorted(parts)), state.now())
            state.objects[self._key] = stored
        self._answer(
            200,
            f"<CompleteMultipartUploadResult><Key>{escape(self._key)}</Key>"
            f"<ETag>{escape(stored.etag)}</ETag></CompleteMultipartUploadResult>".encode(),
        )

    def _abort_upload(self, _body: bytes) -> None:
        # What is left of it costs nothing here.
        self._answer(204, b"")

    def _precondition_fails(self) -> bool:
        state = self.server_state
        current = state.objects.get(self._key)
        if self.headers.get("If-None-Match") == "*" and "unconditional creates" not in state.faults:
            return current is not None
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            return int(generation) != (0 if current is None else current.generation)
        if (expected := self.headers.get("If-Match")) is not None:
            if "refused updates" in state.faults:
                return True
            if "unconditional updates" not in state.faults:
                return current is None or current.etag != expected
        return False

    def _answer_put(self, body: bytes, *, refused: bool) -> None:
        state = self.server_state
        if refused and "overwriting refusals" not in state.faults:
            self._refuse(412, "PreconditionFailed")
            return
        stored = StoredObject(body, state.now())
        state.objects[self._key] = stored
        state.first_contents.setdefault(self._key, body)
        if refused:
            self._refuse(412, "PreconditionFailed")
        else:
            self._answer(200, b"", stored.headers())

    def _delete(self, key: str) -> None:
        if self._deleted(key):
            self._answer(204, b"")
        else:
            self._refuse(403, "AccessDenied")

    def _delete_many(self, body: bytes) -> None:
        results = ""
        for element in ElementTree.fromstring(body).iter():
            if element.tag.endswith("Key"):
                key = element.text or ""
                if self._deleted(key):
                    results += f"<Deleted><Key>{escape(key)}</Key></Deleted>"
                else:
                    results += (
                        f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code>"
                        "<Message>Access Denied</Message></Error>"
                    )
        self._answer(200, f"<DeleteResult>{results}</DeleteResult>".encode())

    def _deleted(self, key: str) -> bool:
        state = self.server_state
        if "refused deletes" in state.faults:
            return False
        if "pretended deletes" not in state.faults:
            with state.lock:
                state.objects.pop(key, None)
        return True

    def _refuse(self, status: int, code: str) -> None:
        self._answer(
            status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        )

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self._muted:
            return
        what = self._key or self._query.get("prefix", [""])[0]
        self.server_state.requests.append((self.command, what, status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


HOUR = timedelta(hours=1)
CONDITIONS = ("If-None-Match", "If-Match", "x-goog-if-generation-match")
# As S3 writes them, although XML 1.0 does not allow it.
CONTROLS = {chr(number): f"&#x{number:x};" for number in (*range(32), 127)}


def listed(key: str, found: StoredObject | None) -> str:
    """A key, or a prefix of several, in a listing."""
    name = escape(key, CONTROLS)
    if found is None:
        return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
    return (
        f"<Contents><Key>{name}</Key><Size>{len(found.data)}</Size>"
        f"<ETag>{escape(found.etag)}</ETag>"
        f"<LastModified>{found.written_at:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
    )
