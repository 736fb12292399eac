"""WSGI: an app to mount, or to run by itself, without a framework.

WSGI has no moment at which an app starts to serve: run `slayq register module:app` when you deploy, or call
`sq.register_sync()` where the app is made.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from slayq.contrib.refusals import BROKEN_OFF, WRONG_METHOD, Body, BodyRefused
from slayq.protocol_v2 import REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from slayq.client import SlayQ


class SlayQApp:
    """A WSGI app that receives for `sq`, whatever the path. Ops leave as they happen, where the server lets them."""

    def __init__(self, sq: SlayQ) -> None:
        self._sq = sq

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serves one request."""
        try:
            body = _read(environ)
        except BodyRefused as refused:
            _start(start_response, refused.refusal.status, refused.refusal.headers)
            return [refused.refusal.body]
        reply = self._sq.receive_sync(_headers(environ), body)
        _start(start_response, reply.status, reply.headers)
        return reply.lines  # a generator: the server closes it when the caller is gone


def _read(environ: WSGIEnvironment) -> bytes:
    if environ["REQUEST_METHOD"] != "POST":
        raise BodyRefused(WRONG_METHOD)
    length: str | None = environ.get("CONTENT_LENGTH") or None
    body = Body(length)
    if length is not None and length.isdecimal():
        body.add(environ["wsgi.input"].read(int(length)))
        if len(body.whole()) < int(length):
            raise BodyRefused(BROKEN_OFF)
    elif environ.get("wsgi.input_terminated"):  # the server finds the end of a chunked body by itself
        body.add(environ["wsgi.input"].read(REQUEST_BYTES + 1))
    return body.whole()


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }


def _start(start_response: StartResponse, status: int, headers: Mapping[str, str]) -> None:
    start_response(f"{status} {HTTPStatus(status).phrase}", list(headers.items()))
