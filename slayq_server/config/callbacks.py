"""Where callbacks may go, and how much of an answer is taken."""

from typing import Annotated

from slayq_server.config.addresses import origin, origin_or_network
from slayq_server.config.queue import DAY
from slayq_server.config.rules import Seconds, Text, Whole
from slayq_server.config.section import Section

Origin = Annotated[str, Text('an origin such as "https://app.example.com"', 300, origin)]
Denied = Annotated[
    str, Text('an origin such as "https://app.example.com" or a network such as "10.0.0.0/8"', 300, origin_or_network)
]


class LimitsConfig(Section):
    """Limits on what an endpoint may answer."""

    response_bytes: Annotated[int, Whole(1_024, 1_048_576)] = 65_536
    """How much of an answer's body is read."""
    retry_after_max: Annotated[float, Seconds(1, 31 * DAY)] = DAY
    """The longest wait that an endpoint may ask for with Retry-After."""


class CallbacksConfig(Section):
    """Where callbacks may go."""

    allow: tuple[Origin, ...] = ()
    """Origins that callbacks may go to, and no others. Loopback and private addresses only where listed."""
    deny: tuple[Denied, ...] = ()
    """Origins and networks that callbacks never go to, whatever is allowed."""
    limits: LimitsConfig = LimitsConfig()
    """What an endpoint may answer."""
