"""Slay Q in Python: the SDK. It imports nothing from `slayq_server`."""

__version__ = "0.1.0"
