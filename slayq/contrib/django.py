"""Django: a view for each way that Django is served. Both are exempt from CSRF checks, as every request is signed.

    urlpatterns = [path("slayq", async_view(sq))]

Django has no moment at which an app starts to serve: run `slayq register module:app` when you deploy, or call
`sq.register_sync()` in your `AppConfig.ready`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slayq.contrib.refusals import BROKEN_OFF, WRONG_METHOD, Body, BodyRefused, Refusal
from slayq.extras import needed
from slayq.protocol_v2 import REQUEST_BYTES

with needed("django"):
    from django.http import HttpResponse, StreamingHttpResponse, UnreadablePostError
    from django.views.decorators.csrf import csrf_exempt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from slayq.client import SlayQ


def view(sq: SlayQ) -> Callable[[HttpRequest], HttpResponseBase]:
    """A view for Django under WSGI: ops leave as they happen. Under ASGI, take `async_view`."""

    @csrf_exempt
    def receive(request: HttpRequest) -> HttpResponseBase:
        try:
            body = _read(request)
        except BodyRefused as refused:
            return _refused(refused.refusal)
        reply = sq.receive_sync(request.headers, body)
        return StreamingHttpResponse(reply.lines, status=reply.status, headers=reply.headers)

    return receive


def async_view(sq: SlayQ) -> Callable[[HttpRequest], Coroutine[Any, Any, HttpResponseBase]]:
    """A view for Django under ASGI: ops leave as they happen, and a caller that goes away cancels the function.

    Under WSGI, take `view`: Django would hold all ops back until the end.
    """

    @csrf_exempt
    async def receive(request: HttpRequest) -> HttpResponseBase:
        try:
            body = _read(request)
        except BodyRefused as refused:
            return _refused(refused.refusal)
        reply = await sq.receive(request.headers, body)
        return StreamingHttpResponse(reply.lines, status=reply.status, headers=reply.headers)

    return receive


def _read(request: HttpRequest) -> bytes:
    """The body. Not `request.body`, whose own limit is smaller than a request of ours may be."""
    if request.method != "POST":
        raise BodyRefused(WRONG_METHOD)
    body = Body(request.headers.get("content-length"))
    try:
        body.add(request.read(REQUEST_BYTES + 1))
    except UnreadablePostError:
        raise BodyRefused(BROKEN_OFF) from None
    return body.whole()


def _refused(refusal: Refusal) -> HttpResponse:
    return HttpResponse(refusal.body, status=refusal.status, headers=refusal.headers)
