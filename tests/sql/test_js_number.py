"""slayq._js_number_1: the text that JavaScript prints for a number, compared with the one that signs callbacks."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

from slayq_server.protocol.js_json import canonical

if TYPE_CHECKING:
    import asyncpg


def a_number(generator: random.Random) -> str:
    """A JSON number: any double, or digits as people and programs write them."""
    kind = generator.randrange(4)
    if kind == 0:
        while True:
            (value,) = struct.unpack("<d", generator.randbytes(8))
            if value == value and abs(value) != float("inf"):
                return repr(value)
    if kind == 1:
        return str(generator.randint(-(10 ** generator.randint(1, 30)), 10 ** generator.randint(1, 30)))
    digits = "".join(generator.choices("0123456789", k=generator.randint(1, 25)))
    whole = str(generator.randrange(10 ** generator.randint(1, 8)))
    exponent = generator.choice(["", f"e{generator.randint(-30, 30)}", f"E+{generator.randint(0, 25)}"])
    return f"{generator.choice(['', '-'])}{whole}{'.' + digits if kind == 2 else ''}{exponent}"


async def test_numbers_are_printed_as_javascript_prints_them(connection: asyncpg.Connection) -> None:
    """Twenty thousand numbers of all sizes and spellings: the same text from both of ours."""
    generator = random.Random(1)
    numbers = [a_number(generator) for _ in range(20_000)]
    printed = await connection.fetch(
        "select number, slayq._js_number_1(number) as text from unnest($1::text[]) as number", numbers
    )
    wrong = [(row["number"], row["text"], canonical(row["number"])) for row in printed]
    assert [each for each in wrong if each[1] != each[2]] == []
