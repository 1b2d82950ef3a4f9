"""`--config FILE.toml`: values from a file become the defaults of a command; flags win."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

Options = TypeVar("Options")


class ConfigError(Exception):
    """The configuration file is missing, is no TOML, or says something that no option is made for."""


def take(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Splits `--config FILE` (or `--config=FILE`) off the arguments. Raises ConfigError when the file's name is missing."""
    rest, file = [], None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--config":
            named = next(waiting, None)
            if named is None:
                raise ConfigError("--config needs a file: --config FILE.toml")
            file = Path(named)
        elif argument.startswith("--config="):
            file = Path(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, file


def read(file: Path) -> dict[str, Any]:
    """The file as a table. Raises ConfigError."""
    try:
        table = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    return dict(table)


def _from_text(kind: type[Any], value: object) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def apply(options: Options, table: dict[str, Any], file: Path, inside: str = "") -> Options:
    """`options` (a dataclass) with the values of `table`: names as in --help, with - or _; a nested group is a table of its own.

    Raises ConfigError for a name that is no option, or a value of another type.
    """
    known = {field.name for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    kinds = get_type_hints(type(options), include_extras=False)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name, said = key.replace("-", "_"), f"{inside}{key}"
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
            raise ConfigError(f"{file}: {said} is no option of this command; {hint}")
        present = getattr(options, name)
        if dataclasses.is_dataclass(present) and isinstance(value, dict):
            values[name] = apply(present, value, file, f"{said}.")
            continue
        try:
            values[name] = msgspec.convert(value, kinds[name], dec_hook=_from_text)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{file}: {said} = {value!r} does not fit: {error}") from error
    return dataclasses.replace(options, **values)  # type: ignore[type-var]
