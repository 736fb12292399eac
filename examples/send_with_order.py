"""An order's row and its event in one transaction: with asyncpg, and with SQLAlchemy.

    . .slayq/env && uvicorn examples.send_with_order:app --port 8105
    . .slayq/env && python -m examples.send_with_order

A row without its event, or an event without its row, cannot be: both are there after the commit, and neither after a
rollback or a crash. Here one order is placed each way, and one each way is rolled back.
"""

import asyncio
import os
from uuid import UUID

import asyncpg
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from slayq import Event, SlayQ, Step
from slayq.contrib.asgi import SlayQApp

sq = SlayQ(app="order-desk", url=os.environ.get("APP_URL", "http://127.0.0.1:8105/slayq"))


class OrderPlaced(BaseModel):
    """What is sent when an order is placed."""

    order_id: str


placed = Event("desk/order.placed", OrderPlaced)


@sq.function(event=placed)
async def fulfil(order: OrderPlaced, step: Step) -> None:
    """Runs once for each order whose transaction has committed."""
    await step.run("fulfil", print, "fulfilling", order.order_id)


app = SlayQApp(sq)
"""Receives. It may be another process than the one that sends."""


class Sorry(Exception):
    """Something went wrong after the event was sent."""


class Base(DeclarativeBase):
    """Of the tables of SQLAlchemy's."""


class OrderRow(Base):
    """An order."""

    __tablename__ = "desk_order"
    order_id: Mapped[str] = mapped_column(primary_key=True)


async def place_by_asyncpg(connection: asyncpg.Connection, order_id: str, *, fail: bool = False) -> UUID | None:
    """Places an order; the id of its run."""
    async with connection.transaction():
        await connection.execute("insert into desk_order (order_id) values ($1)", order_id)
        run = await sq.send_event(placed(OrderPlaced(order_id=order_id)), conn=connection)
        if fail:
            raise Sorry
    return run


async def place_by_sqlalchemy(session: AsyncSession, order_id: str, *, fail: bool = False) -> UUID | None:
    """Places an order; the id of its run."""
    async with session.begin():
        session.add(OrderRow(order_id=order_id))
        run = await sq.send_event(placed(OrderPlaced(order_id=order_id)), conn=session)
        if fail:
            raise Sorry
    return run


async def main(database_url: str) -> None:
    """Places two orders, and fails to place two others."""
    await sq.register()
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as setting_up:
        await setting_up.run_sync(Base.metadata.create_all)
    connection = await asyncpg.connect(database_url)
    try:
        print("asyncpg: run", await place_by_asyncpg(connection, "A-1"))
        async with AsyncSession(engine) as session:
            print("SQLAlchemy: run", await place_by_sqlalchemy(session, "S-1"))
        try:
            await place_by_asyncpg(connection, "A-2", fail=True)
        except Sorry:
            print("asyncpg: rolled back, and nothing was sent")
        try:
            async with AsyncSession(engine) as session:
                await place_by_sqlalchemy(session, "S-2", fail=True)
        except Sorry:
            print("SQLAlchemy: rolled back, and nothing was sent")
    finally:
        await connection.close()
        await engine.dispose()
        await sq.close()


if __name__ == "__main__":
    asyncio.run(main(os.environ["SLAY_Q_DATABASE_URL"]))
