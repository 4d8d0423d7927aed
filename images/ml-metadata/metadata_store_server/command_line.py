"""The command line of upstream's server, with the conventions of its flag library (gflags).

`--name=value`, `--name value`, one dash or two, `--switch` and `--noswitch`, `--flagfile=FILE`, and
`--fromenv=name`, which takes the value from the variable FLAGS_name: the way to keep a password off the command line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path


class UsageError(Exception):
    """What is wrong with the command line, in a sentence."""


@dataclass
class Flags:
    """Every flag that this server knows, with upstream's defaults."""

    grpc_port: int = 8080
    grpc_channel_arguments: str = ""
    metadata_source_config_type: str = "default"
    metadata_store_server_config_file: str = ""
    metadata_store_connection_retries: int = 5
    mysql_config_host: str = ""
    mysql_config_port: int = 0
    mysql_config_database: str = ""
    mysql_config_user: str = ""
    mysql_config_password: str = ""
    enable_database_upgrade: bool = False
    downgrade_db_schema_version: int = -1

    def channel_arguments(self) -> list[tuple[str, int | str]]:
        """`--grpc_channel_arguments` as gRPC takes it: numbers as numbers."""
        pairs = [word.partition("=") for word in self.grpc_channel_arguments.split(",") if word]
        return [(name, int(value) if value.lstrip("-").isdigit() else value) for name, _, value in pairs]


_TYPES = {field.name: field.type for field in fields(Flags)}
_BOOLEANS = {"true": True, "t": True, "yes": True, "y": True, "1": True}
_BOOLEANS |= {"false": False, "f": False, "no": False, "n": False, "0": False}


def parse(words: list[str], environment: Mapping[str, str] = os.environ) -> Flags:
    """Read the words after the program's name."""
    flags = Flags()
    _read(flags, list(words), environment)
    return flags


def _read(flags: Flags, words: list[str], environment: Mapping[str, str]) -> None:
    while words:
        word = words.pop(0)
        if word == "--":
            return
        if not word.startswith("-") or word == "-":
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name in ("fromenv", "tryfromenv", "flagfile") or name in _TYPES:
            if not equals and _TYPES.get(name) is bool:
                value = "true"
            elif not equals:
                if not words:
                    raise UsageError(f"The flag --{name} needs a value.")
                value = words.pop(0)
        elif name.startswith("no") and _TYPES.get(name[2:]) is bool and not equals:
            name, value = name[2:], "false"
        else:
            raise UsageError(f"There is no flag --{name}.")
        if name == "flagfile":
            lines = (line.strip() for line in _text(value).splitlines())
            _read(flags, [line for line in lines if line.startswith("-")], environment)
        elif name in ("fromenv", "tryfromenv"):
            for wanted in value.split(","):
                variable = f"FLAGS_{wanted}"
                if variable in environment:
                    _set(flags, wanted, environment[variable])
                elif name == "fromenv":
                    raise UsageError(f"--fromenv={wanted} needs the environment variable {variable}.")
        else:
            _set(flags, name, value)


def _set(flags: Flags, name: str, value: str) -> None:
    kind = _TYPES.get(name)
    try:
        if kind is bool:
            setattr(flags, name, _BOOLEANS[value.lower()])
        elif kind is int:
            setattr(flags, name, int(value))
        elif kind is str:
            setattr(flags, name, value)
        else:
            raise UsageError(f"There is no flag --{name}.")
    except (KeyError, ValueError):
        raise UsageError(f"--{name}={value} must be {'true or false' if kind is bool else 'a whole number'}.") from None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read: {error.strerror}.") from None
