"""Where callbacks may go, how much of an answer is taken, and when an endpoint is left alone for a while."""

from typing import Annotated

from slayq_server.config.addresses import origin, origin_or_network
from slayq_server.config.queue import DAY
from slayq_server.config.rules import Maybe, Seconds, Text, Whole
from slayq_server.config.section import Section
from slayq_server.engine.breaker import BreakerRule

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


class BreakerConfig(Section):
    """When to stop trying an endpoint that is away, and how often to look whether it is back."""

    failures: Annotated[int | None, Maybe(Whole(1, 10_000), (False,))] = 10
    """Deliveries in a row that find the endpoint away until its jobs are put off; false: they never are."""
    max_pause: Annotated[float, Seconds(0.01, 3_600)] = 30.0
    """The longest pause between two probes. The first is a second, if this is not less."""

    def rule(self) -> BreakerRule | None:
        """The same for the engine."""
        return None if self.failures is None else BreakerRule(self.failures, self.max_pause)


class CallbacksConfig(Section):
    """Where callbacks may go."""

    allow: tuple[Origin, ...] = ()
    """Origins that callbacks may go to, and no others. Loopback and private addresses only where listed."""
    deny: tuple[Denied, ...] = ()
    """Origins and networks that callbacks never go to, whatever is allowed."""
    limits: LimitsConfig = LimitsConfig()
    """What an endpoint may answer."""
    breaker: BreakerConfig = BreakerConfig()
    """What becomes of jobs whose endpoint is away."""
