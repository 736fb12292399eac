"""The statements that drivers and joined connections run. Text in and text out.

The casts keep values clear of what a connection of the caller's does with types of its own: a codec for json that
encodes twice, another class for uuid. `cast` and not `::`, whose colons SQLAlchemy takes for parameters.
"""

from __future__ import annotations

from typing import Final

SEND: Final = "select cast(run as text) from slayq.send_many(cast(cast({} as text) as json)) as run"
"""Takes events as a JSON array; gives a row an event, in order."""
CANCEL: Final = "select slayq.cancel(cast(cast({} as text) as uuid))"
REGISTER: Final = "select cast(slayq.register(cast(cast({} as text) as json)) as text)"
