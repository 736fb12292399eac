"""What all parts of the configuration have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from slayq_server.config.rules import Flag, Text


class Section(BaseModel):
    """A part of slay-config.json: frozen, without keys of others; the docstring of a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


Switch = Annotated[bool, Flag()]
QueueRef = Annotated[str, Text("the name of a queue, or an alias of one", 128)]
Event = Annotated[str, Text('an event\'s name such as "shop/order.placed"', 512)]
