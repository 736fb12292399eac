"""The example, the JSON Schema and docs/configuration.md say all that the models do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slayq.duration import parse_duration
from slayq_server.config import Config, json_schema, load
from slayq_server.config.problems import model_in, walk
from slayq_server.config.rules import Seconds
from slayq_server.settings import Environment

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "slay-config.example.json"
DOCS = ROOT / "docs" / "configuration.md"


def settings_in(value: object, prefix: str, model: type[BaseModel]) -> set[str]:
    """The settings that a parsed file has, written as `walk` does."""
    found: set[str] = set()
    assert isinstance(value, dict)
    for key, inner in value.items():
        field = model.model_fields[key]
        found.add(prefix + key)
        within = model_in(field)
        if within is None:
            continue
        if isinstance(inner, list):
            parts, mark = inner, "[]"
        elif field.annotation is not None and str(field.annotation).startswith("dict"):
            parts, mark = list(inner.values()), ".*"
        else:
            parts, mark = [inner], ""
        for part in parts:
            found |= settings_in(part, f"{prefix}{key}{mark}.", within)
    return found


def test_the_example_loads_and_has_every_setting() -> None:
    """slay-config.example.json, as it is; each field of each model is in it, so it cannot fall behind."""
    load(EXAMPLE)
    assert {path for path, _ in walk(Config)} == settings_in(json.loads(EXAMPLE.read_text()), "", Config)


def test_the_deployments_file_loads() -> None:
    """The one that the compose file mounts."""
    load(ROOT / "deploy" / "slay-config.json")


def test_every_setting_is_documented_with_its_default() -> None:
    """docs/configuration.md has a row with the true default for each plain setting, and a head for each group."""
    text = DOCS.read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| [^|]+ \| ([^|]+) \|", text, re.MULTILINE))
    settings = {path: field for path, field in walk(Config) if model_in(field) is None}
    assert set(settings) == {path for path in rows if not path.startswith("SLAY_Q_")}
    for path, field in settings.items():
        cell = rows[path].strip("`")
        if field.is_required():
            assert (path, "required") == (path, cell)
            continue
        rule = next((each for each in field.metadata if isinstance(each, Seconds)), None)
        default = field.get_default(call_default_factory=True)
        if isinstance(rule, Seconds):
            assert (path, pytest.approx(parse_duration(cell).total_seconds(), rel=1e-3)) == (path, default)
        elif isinstance(default, float):
            assert (path, pytest.approx(default, rel=1e-3)) == (path, float(cell))
        else:
            assert (path, json.loads(cell)) == (path, json.loads(json.dumps(default)))
    for group in {path for path, _ in walk(Config)} - set(settings):
        assert re.search(rf"^###? `{re.escape(group)}`$", text, re.MULTILINE), group


def test_the_schema_describes_every_setting() -> None:
    """Each field of each model has a description, and what the loader refuses the schema bounds."""
    schema = json_schema()
    models = [schema, *schema["$defs"].values()]
    undescribed = [
        (model.get("title"), name)
        for model in models
        for name, field in model["properties"].items()
        if not field.get("description")
    ]
    assert [] == undescribed
    assert all(model["additionalProperties"] is False for model in models)
    documented = sum(len(model["properties"]) for model in models) - 1  # $schema
    assert len(list(walk(Config))) == documented
    assert {"type": "integer", "minimum": 1, "maximum": 10_000} == {
        key: schema["$defs"]["QueueConfig"]["properties"]["concurrency"][key] for key in ("type", "minimum", "maximum")
    }
    json.dumps(schema)


def test_every_environment_variable_is_documented() -> None:
    """A row each, with the default where there is one, and the setting that it goes over where there is one."""
    rows = dict(re.findall(r"^\| `(SLAY_Q_[A-Z_]+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    fields = {f"SLAY_Q_{name.upper()}": field for name, field in Environment.model_fields.items()}
    assert list(fields) == list(rows)
    settings = {path for path, _ in walk(Config)}
    for name, field in fields.items():
        over, default, meaning = (cell.strip(" `") for cell in rows[name].split("|", 2))
        assert over == "" or over in settings
        assert meaning
        if isinstance(field.default, str):
            assert (name, default) == (name, field.default)
        described = re.match(r"Over ([a-z._]+)", field.description or "")
        assert (name, over) == (name, described[1].rstrip(".") if described else "")
