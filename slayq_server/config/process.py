"""The daemon as a process: its worker row, its database, its HTTP server, what it keeps, whom it grants."""

from typing import Annotated

from pydantic import SecretStr, model_validator

from slayq_server.config.addresses import bind_address, postgres_url
from slayq_server.config.queue import DAY
from slayq_server.config.rules import Flag, Maybe, Refused, Seconds, Secret, Text, Whole, refuse, shown, span
from slayq_server.config.section import Section

YEAR = 365.25 * DAY

GRACE = Seconds(0, DAY)
POOL_SIZE = Whole(2, 32)
POLL_ONLY = Flag()
LISTEN_URL = Secret("a database URL such as postgresql://user:password@host:5432/database", take=postgres_url)
HTTP_BIND = Text('an address such as "127.0.0.1"', 255, bind_address)
HTTP_PORT = Whole(0, 65_535)
HTTP_TOKEN = Secret("a token", 512)


def _name_in_bytes(text: str) -> str:
    if len(text.encode()) > 63:
        raise Refused(f"must have at most 63 bytes, as names in Postgres do, not {len(text.encode())}")
    return text


def _application_name(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise Refused(f"must be plain ASCII, as Postgres shows nothing else, not {shown(text)}")
    return _name_in_bytes(text)


def _role(text: str) -> str:
    if text.lower() == "public":
        raise Refused("must not be PUBLIC: any role of the database could then add jobs")
    return _name_in_bytes(text)


class RetentionConfig(Section):
    """How long what has ended is kept."""

    done: Annotated[float | None, Maybe(Seconds(1, 100 * YEAR), (None, False, 0))] = None
    """How long finished jobs are kept as history; false or 0 keeps none."""
    dead: Annotated[float, Seconds(1, 100 * YEAR)] = 30 * DAY
    """How long dead letters are kept."""


class HttpConfig(Section):
    """The server of health, metrics and RPC."""

    bind: Annotated[str, HTTP_BIND] = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, HTTP_PORT] = 8288
    """The port to listen on; 0 lets the system choose."""
    tokens: tuple[Annotated[SecretStr, HTTP_TOKEN], ...] = ()
    """Bearer tokens that open /metrics, newest first; without any it is open."""


class DatabaseConfig(Section):
    """How Postgres is used; its address is SLAY_Q_DATABASE_URL."""

    pool_size: Annotated[int, POOL_SIZE] = 4
    """How many connections there are at most, besides the one that listens."""
    poll_only: Annotated[bool, POLL_ONLY] = False
    """Whether the database is behind a pooler in transaction mode: no prepared statements, nothing kept in a session.
    Without a listen_url there is no LISTEN either, and polling alone finds the jobs."""
    listen_url: Annotated[SecretStr | None, Maybe(LISTEN_URL)] = None
    """A database URL for LISTEN alone, direct or of a pooler in session mode, where SLAY_Q_DATABASE_URL is neither."""
    poll_interval: Annotated[float, Seconds(0.05, 3_600)] = 1.0
    """How often to look for due jobs where nothing listens; otherwise NOTIFY and each renewal of the worker row do."""
    application_name: Annotated[str, Text("a name of 1 to 63 characters", 63, _application_name)] = "slayq-server"
    """What Postgres shows the connections as."""

    @property
    def listens(self) -> bool:
        """Whether a connection listens."""
        return not self.poll_only or self.listen_url is not None


class GrantsConfig(Section):
    """Who may call the SQL functions, besides their owner and service_role."""

    roles: tuple[Annotated[str, Text("the name of a database role", 63, _role)], ...] = ()
    """Database roles that may."""


class WorkerConfig(Section):
    """The row by which this process holds its jobs."""

    lease: Annotated[float, Seconds(0.5, 3_600)] = 15.0
    """How long after its last renewal a daemon's jobs are its own; then others take them."""
    # The SQL side wakes the timer only for what is due before the next renewal: see slayq._wake_word_1.
    renew: Annotated[float, Seconds(0.1, 5)] = 5.0
    """How often it is renewed: at most half of the lease."""
    name: Annotated[str | None, Maybe(Text("a name of 1 to 128 characters", 128))] = None
    """What the daemon is shown as; host and process number where it is not set."""

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "WorkerConfig":
        if self.renew > self.lease / 2:
            refuse(f"renew must be at most half of lease ({span(self.lease / 2)}), not {span(self.renew)}")
        return self
