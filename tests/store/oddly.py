"""Single odd answers of the S3 server in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.servers import faulty_s3

Rule = Callable[[str, str, Mapping[str, str]], tuple[int, str] | None]
"""Method, key (of a listing: its prefix) and headers of a request -> status and code, or None."""

CONFLICT = (409, "ConditionalRequestConflict")
NO_KEY = (404, "NoSuchKey")


class Odd:
    """What the server answers instead of doing what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rules: list[Rule] = []
        serve = faulty_s3._Handler._serve

        def serve_oddly(handler: faulty_s3._Handler, operation: object) -> None:
            path = handler._key or handler._query.get("prefix", [""])[0]
            for rule in list(self.rules):
                # Headers of a message are a mapping, whose type does not say so.
                answer = rule(handler.command, path, dict(handler.headers.items()))
                if answer is not None:
                    handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
                    handler._refuse(*answer)
                    return
            serve(handler, operation)

        monkeypatch.setattr(faulty_s3._Handler, "_serve", serve_oddly)

    def answer(self, method: str, part: str, answer: tuple[int, str], times: int = 1) -> None:
        """Answer the next requests of a kind, whose key has `part` in it."""
        left = times

        def rule(asked: str, path: str, _headers: Mapping[str, str]) -> tuple[int, str] | None:
            nonlocal left
            if left > 0 and asked == method and part in path:
                left -= 1
                return answer
            return None

        self.rules.append(rule)
