"""Finding an app by its name, `module:app`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slayq.client import SlayQ
from slayq.errors import SlayQError

if TYPE_CHECKING:
    from types import ModuleType


class NotFound(SlayQError):
    """There is no such module, or no such app in it."""


class ImportFailed(SlayQError):
    """The module raised an error of its own, which is the cause of this one."""


def load(name: str, folder: str = ".") -> SlayQ:
    """The app that `module:app` names; without `:app`, the one that the module has.

    The module is looked for in `folder` first. Raises NotFound and ImportFailed.
    """
    module_name, _, path = name.partition(":")
    module = _imported(module_name, folder)
    return _named(module, path) if path else _only(module)


def _imported(name: str, folder: str) -> ModuleType:
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        _set_up_django()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ImportFailed(f"the module {name} cannot be imported: {error}") from error
        raise NotFound(
            f"there is no module {error.name} in {folder!r} or among what is installed: "
            "name it as an import does, such as shop.jobs:sq, and say with --app-dir where it is"
        ) from error
    except (TypeError, ValueError) as error:
        if name and all(part.isidentifier() for part in name.split(".")):
            raise ImportFailed(f"the module {name} cannot be imported: {error}") from error
        raise NotFound(f"{name!r} is no name of a module: name it as an import does, such as shop.jobs:sq") from error
    except Exception as error:
        raise ImportFailed(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from error


def _set_up_django() -> None:
    """A module of a Django project can be imported only once Django is set up."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        django = importlib.import_module("django")
        django.setup()


def _named(module: ModuleType, path: str) -> SlayQ:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise NotFound(f"{module.__name__} has no {path!r}{_instead(module, path)}")
        found = getattr(found, part)
    if not isinstance(found, SlayQ):
        raise NotFound(f"{module.__name__}:{path} is a {type(found).__name__} and no SlayQ{_instead(module, path)}")
    return found


def _only(module: ModuleType) -> SlayQ:
    apps = _apps(module)
    if not apps:
        raise NotFound(f"the module {module.__name__} has no SlayQ: name it where it is, such as shop.jobs:sq")
    if len({id(app) for app in apps.values()}) > 1:
        raise NotFound(f"the module {module.__name__} has several: say which of {', '.join(apps)} after a colon")
    return next(iter(apps.values()))


def _apps(module: ModuleType) -> dict[str, SlayQ]:
    return {name: value for name, value in vars(module).items() if isinstance(value, SlayQ)}


def _instead(module: ModuleType, path: str) -> str:
    apps = _apps(module)
    if not apps:
        return ""
    close = difflib.get_close_matches(path, apps, n=1) or list(apps)
    return f": did you mean {module.__name__}:{close[0]}?"
