"""What all models of conf/ have in common, and how a YAML file becomes one of them."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import ConfigError, UnknownNameError


class ConfigModel(BaseModel):
    """Base of every model in conf/: unknown fields, NaN and infinity are refused, values stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path}: there is no such file; create it or correct the name"
        raise ConfigError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{path}: not readable as YAML ({error}); correct the syntax there"
        raise ConfigError(message) from error
    if not isinstance(content, dict):
        message = f"{path}: holds {type(content).__name__}, expected `name: value` pairs at the top level"
        raise ConfigError(message)
    return content


def parse(model: type[ModelT], content: dict[str, Any], path: Path) -> ModelT:
    """Build ``model`` from the content of ``path``.

    Raises:
        ConfigError: names the file, every wrong field, its value and the rule it breaks.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # What could not be worked out as another field is wrong is nothing to correct.
        wrong = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        lines = [_one_line(item, model) for item in wrong]
        message = f"{path}: {len(lines)} wrong field(s)\n" + "\n".join(f"  {line}" for line in lines)
        raise ConfigError(message) from error


def _one_line(item: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields))
        hint = f"; fields at the top level are: {known}" if len(item["loc"]) == 1 else ""
        return f"{place}: no such field{hint}"
    if item["type"] == "missing":
        return f"{place}: is missing; add it"
    return f"{place}: {item['msg']} (value seen: {item['input']!r})"


def find_named(folder: Path, name: str, kind: str) -> Path:
    """Path of ``<folder>/<name>.yaml``; a name never leads out of the folder.

    Raises:
        UnknownNameError: lists the names there are.
    """
    names = names_in(folder)
    if name not in names:
        known = ", ".join(names) or "none"
        plain = bool(name) and Path(name).name == name
        hint = f"a new one is one new file {name}.yaml" if plain else "a name is that of a file in it alone"
        message = f"no {kind} named {name!r} in {folder}; known: {known}; {hint}"
        raise UnknownNameError(message)
    return folder / f"{name}.yaml"


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files in ``folder``, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
