"""slay-config.json: what it may say (frozen pydantic models), reading it, and its JSON Schema.

`load(path)` is the way in. The environment goes over the file: see `slayq_server.settings.effective`.
"""

from slayq_server.config.callbacks import BreakerConfig, CallbacksConfig, LimitsConfig
from slayq_server.config.cron import CronEntry
from slayq_server.config.document import Config, PoolSpec, pools
from slayq_server.config.effective import effective
from slayq_server.config.file import json_schema, load, parse, parse_text
from slayq_server.config.process import DatabaseConfig, GrantsConfig, HttpConfig, RetentionConfig, WorkerConfig
from slayq_server.config.queue import BackoffConfig, QueueConfig

__all__ = [
    "BackoffConfig",
    "BreakerConfig",
    "CallbacksConfig",
    "Config",
    "CronEntry",
    "DatabaseConfig",
    "GrantsConfig",
    "HttpConfig",
    "LimitsConfig",
    "PoolSpec",
    "QueueConfig",
    "RetentionConfig",
    "WorkerConfig",
    "effective",
    "json_schema",
    "load",
    "parse",
    "parse_text",
    "pools",
]
