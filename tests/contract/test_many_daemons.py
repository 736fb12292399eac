"""The contract with two daemons, and with daemons killed at random; `make contract` runs these, `make test` does not.

With two daemons the app cannot tell: every number of deliveries is that of one. Under kill -9, over and over while all
scenarios run again and again, everything ends as it should, and nothing that was recorded is lost. The times of the
kills come from a seed, which a failure names and SLAYQ_SEED sets.
"""

from __future__ import annotations

import pytest

from tests.contract.app_process import Setting
from tests.contract.suite import Contract

KILLS = 8

pytestmark = [pytest.mark.contract_long, pytest.mark.timeout(300)]


class TestPythonPostgresKilled(Contract):
    """The one daemon is killed: until the next is up, nobody is there."""

    setting = Setting("python", "postgres", kills=KILLS)


class TestPythonRpcKilled(Contract):
    """Of two daemons one is killed; the other takes over, and the app's calls may go to either."""

    setting = Setting("python", "rpc", daemons=2, kills=KILLS)


class TestNodePostgresKilled(Contract):
    """Of two daemons one is killed; the other takes over."""

    setting = Setting("node", "postgres", daemons=2, kills=KILLS)


class TestNodeRpcKilled(Contract):
    """The one daemon is killed, and the app's calls have nowhere to go meanwhile."""

    setting = Setting("node", "rpc", kills=KILLS)


class TestPythonPostgresTwo(Contract):
    """Two daemons, the SQL functions."""

    setting = Setting("python", "postgres", daemons=2)


class TestPythonRpcTwo(Contract):
    """Two daemons, which the app calls in turn."""

    setting = Setting("python", "rpc", daemons=2)


class TestNodePostgresTwo(Contract):
    """Two daemons, JavaScript's own JSON, the SQL functions."""

    setting = Setting("node", "postgres", daemons=2)


class TestNodeRpcTwo(Contract):
    """Two daemons, JavaScript's own JSON, which the app calls in turn."""

    setting = Setting("node", "rpc", daemons=2)
