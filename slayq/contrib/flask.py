"""Flask: a blueprint. For WSGI without Flask, see `slayq.contrib.wsgi`.

    app.register_blueprint(blueprint(sq, "/slayq"))

Flask has no moment at which an app starts to serve: run `slayq register module:app` when you deploy, or call
`sq.register_sync()` where the app is made. With Flask-WTF, exempt the blueprint: every request is signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slayq.contrib.refusals import Body, BodyRefused
from slayq.extras import needed
from slayq.protocol_v2 import REQUEST_BYTES

with needed("flask"):
    from flask import Blueprint, Response, request

if TYPE_CHECKING:
    from slayq.client import SlayQ


def blueprint(sq: SlayQ, path: str = "/slayq", *, name: str = "slayq") -> Blueprint:
    """A blueprint with one route, `path`, at which `sq` receives. Ops leave as they happen.

    `name` tells it from other blueprints of the app. The app's own limit of bodies does not count here.
    """
    made = Blueprint(name, __name__)

    @made.post(path)
    def receive() -> Response:
        try:
            body = _read()
        except BodyRefused as refused:
            return Response(refused.refusal.body, refused.refusal.status, refused.refusal.headers)
        reply = sq.receive_sync(dict(request.headers), body)
        return Response(reply.lines, reply.status, reply.headers, direct_passthrough=True)

    return made


def _read() -> bytes:
    body = Body(request.headers.get("content-length"))
    request.max_content_length = REQUEST_BYTES + 1  # in place of the app's; what is over ours is refused by us
    body.add(request.stream.read(REQUEST_BYTES + 1))
    return body.whole()
