"""A stand-in for Supabase's PostgREST: functions of schema public, called by name over HTTP.

Like the real one it logs in as `authenticator`, takes the role that the caller's token names for the length of one
transaction, finds the function by the names of its arguments, and lets Postgres make them out of the JSON.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import asyncpg
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

ROLES = ("anon", "authenticated", "service_role")
_LOGIN = "authenticator"
_SECRET = b"a secret of at least thirty-two characters"

_FUNCTIONS = """
select p.proargnames[1:p.pronargs] as names, p.pronargs - p.pronargdefaults as required,
    array(select format_type(t, null) from unnest(p.proargtypes::oid[]) t) as types,
    p.prorettype = 'void'::regtype as nothing, p.proretset as many
from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = $1"""

_STATUSES = {"08": 503, "53": 503, "57": 503, "23503": 409, "23505": 409, "42883": 404, "42P01": 404, "XX": 500}
"""By SQLSTATE or its class; 400 for the rest, and 42501 is 401 without a token and 403 with one."""


@asynccontextmanager
async def supabase_roles(admin: asyncpg.Connection, password: str) -> AsyncIterator[None]:
    """Supabase's roles, and its default privileges: each new function of public is everybody's.

    Roles belong to the whole server: they go at the end, with all they were granted in this database.
    """
    everyone = ", ".join(ROLES)
    made = (*ROLES, _LOGIN)
    try:
        for role in ROLES:
            await admin.execute(f"create role {role} nologin")
        await admin.execute(f"create role {_LOGIN} noinherit login password '{password}'")
        await admin.execute(f"grant {everyone} to {_LOGIN}")
        await admin.execute(f"grant usage on schema public to {everyone}")
        for what in ("functions", "tables", "sequences"):
            await admin.execute(f"alter default privileges in schema public grant all on {what} to {everyone}")
        yield
    finally:
        for role in made:
            await admin.execute(f"drop owned by {role} cascade")
            await admin.execute(f"drop role {role}")


@dataclass(frozen=True)
class _Function:
    """One function of public."""

    name: str
    arguments: dict[str, str]
    """Name → type."""
    required: frozenset[str]
    nothing: bool
    """Whether it returns void."""
    many: bool
    """Whether it returns rows, which become an array."""

    def takes(self, given: Iterable[str]) -> bool:
        """Whether it can be called with these arguments."""
        return self.required <= set(given) <= set(self.arguments)

    def call(self, given: Iterable[str]) -> str:
        """The SQL of a call, whose one parameter is a JSON object of the arguments. It gives what becomes the body."""
        columns = ", ".join(f'"{name}" {self.arguments[name]}' for name in given)
        passed = ", ".join(f'"{name}" => given."{name}"' for name in given)
        source = f"json_to_record($1::json) as given({columns})" if columns else "(select $1::json) as nothing"
        result = "coalesce(json_agg(result), '[]')" if self.many else "to_json(result)"
        return f'select {result} from (select public."{self.name}"({passed}) as result from {source}) as called'


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "details": None, "hint": hint, "message": message}


class PostgRest:
    """The server.

    async with PostgRest(database_url) as postgrest:
        client = AsyncPostgrestClient(postgrest.url, headers=postgrest.headers("service_role"))
    """

    def __init__(self, database_url: str, path: str = "") -> None:
        """`database_url` may name any user: it logs in as `authenticator`, with the same password.

        `path` comes before those of the functions; Supabase has /rest/v1 there.
        """
        self._database_url = database_url
        self._path = path
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.statuses: list[int] = []
        """Of all answers, in order."""

    @staticmethod
    def headers(role: str | None) -> dict[str, str]:
        """What a caller of that role sends; None for one without a token."""
        if role is None:
            return {}
        head, body = (_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, {"role": role}))
        return {"Authorization": f"Bearer {head}.{body}.{_signature(head, body)}"}

    async def __aenter__(self) -> Self:
        self._pool = await asyncpg.create_pool(self._database_url, user=_LOGIN, min_size=0, max_size=4, timeout=10)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post(self._path + "/rpc/{function}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        assert self._pool is not None
        await self._runner.cleanup()
        await self._pool.close()

    async def _serve(self, request: web.Request) -> web.Response:
        try:
            role = _role(request.headers.get("Authorization"))
            answer = await self._call(role, request.match_info["function"], await request.text())
        except _Refused as refused:
            answer = web.json_response(refused.body, status=refused.status)
        self.statuses.append(answer.status)
        return answer

    async def _call(self, role: str, name: str, body: str) -> web.Response:
        try:
            given = json.loads(body or "{}")
        except ValueError:
            raise _Refused(400, "PGRST102", "Empty or invalid json") from None
        assert self._pool is not None
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                function = await _find(connection, name, given)
                await connection.execute("select set_config('role', $1, true)", role)
                result = await connection.fetchval(function.call(given), body or "{}")
        except asyncpg.PostgresError as error:
            code = error.sqlstate or "XX000"
            status = _STATUSES.get(code) or _STATUSES.get(code[:2], 400)
            if code == "42501":
                status = 401 if role == "anon" else 403
            raise _Refused(status, code, str(error.args[0]), getattr(error, "hint", None)) from error
        if function.nothing:
            return web.Response(status=204)
        return web.Response(text=result or "null", content_type="application/json")


async def _find(connection: Any, name: str, given: dict[str, Any]) -> _Function:
    for row in await connection.fetch(_FUNCTIONS, name):
        names = row["names"] or []
        arguments = dict(zip(names, row["types"], strict=True))
        function = _Function(name, arguments, frozenset(names[: row["required"]]), row["nothing"], row["many"])
        if function.takes(given):
            return function
    wanted = ", ".join(sorted(given))
    raise _Refused(404, "PGRST202", f"Could not find the function public.{name}({wanted}) in the schema cache")


def _role(authorization: str | None) -> str:
    if authorization is None:
        return "anon"
    head, body, signature = authorization.removeprefix("Bearer ").split(".")
    if not hmac.compare_digest(signature, _signature(head, body)):
        raise _Refused(401, "PGRST301", "No suitable key or wrong key type")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims["role"])


def _signature(head: str, body: str) -> str:
    return _base64(hmac.new(_SECRET, f"{head}.{body}".encode(), hashlib.sha256).digest())


def _base64(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
