"""The contract, scenario by scenario, with a stand-in app in each of its forms and one daemon."""

from __future__ import annotations

from tests.contract.app_process import Setting
from tests.contract.suite import Contract


class TestPythonPostgres(Contract):
    """The app calls the SQL functions."""

    setting = Setting("python", "postgres")


class TestPythonRpc(Contract):
    """The app calls the daemon over HTTP."""

    setting = Setting("python", "rpc")


class TestNodePostgres(Contract):
    """JavaScript's own JSON, and the SQL functions."""

    setting = Setting("node", "postgres")


class TestNodeRpc(Contract):
    """JavaScript's own JSON, and HTTP."""

    setting = Setting("node", "rpc")
