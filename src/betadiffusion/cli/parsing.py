"""From a typed function to its command line; jsonargparse does the typing, this file the words.

Positional parameters become positional arguments, keyword-only ones options, a RunConfig one option per key, with
--config FILE to read keys from YAML, and any other dataclass one option per field. Docstrings are the help.
"""

import dataclasses
import difflib
import inspect
import json
import re
import types
from argparse import ArgumentError, HelpFormatter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from betadiffusion.training.config import RunConfig

SHORT = {  # command: {option: the key that it is short for}
    "demo": {"--data": "--data.source", "--size": "--data.size"},
    "train": {"--data-path": "--data.source"},
}
Types = dict[str, Any]


def parse(name: str, command: Callable[..., None], argv: list[str]) -> dict[str, Any]:
    """The arguments of `command` from a command line; a parameter `given` gets the keys that the user named.

    Raises ValueError, in one sentence that names key and place, for whatever does not fit; SystemExit for --help.
    """
    argv = _files_first([_long(argument, SHORT.get(name, {})) for argument in argv])
    parser, keys = make_parser(name, command)
    for before, argument in zip(["", *argv], argv, strict=False):
        if before == "--config" or argument.startswith("--config="):
            check_file(parser, keys, argument.removeprefix("--config="))
    try:
        values = parser.parse_args(argv)
        given = parser.parse_args(argv, defaults=False)
    except ArgumentError as error:
        raise ValueError(_sentence(str(error), keys, option=True)) from None
    arguments: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        if parameter.annotation is RunConfig:
            arguments[parameter.name] = _build(RunConfig, values)
        elif parameter.name == "given":
            arguments["given"] = frozenset(given.keys())
        elif dataclasses.is_dataclass(kind := parameter.annotation):
            fields = inspect.signature(kind).parameters.values()
            arguments[parameter.name] = kind(**{field.name: _value(values, field) for field in fields})
        else:
            arguments[parameter.name] = _value(values, parameter)
    return arguments


def make_parser(name: str, command: Callable[..., None]) -> tuple[ArgumentParser, Types]:
    """The parser of one command, and the type of every key."""
    documentation = inspect.getdoc(command) or ""
    parser = ArgumentParser(
        prog=f"betadiffusion {name}",
        description=documentation.partition("\n\nArgs:")[0],
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    keys: Types = {}
    groups: list[type] = []
    helps = argument_help(documentation)
    short = {key: option for option, key in SHORT.get(name, {}).items()}
    for parameter in inspect.signature(command).parameters.values():
        if parameter.annotation is RunConfig:
            parser.add_argument("--config", action="config", metavar="FILE", help="YAML with any of the keys below.")
            options = [f"[{option} {key.rpartition('.')[2].upper()}]" for key, option in short.items()]
            parser.usage = f"%(prog)s [--config FILE] {' '.join(options)} [--KEY VALUE ...]"
        elif dataclasses.is_dataclass(parameter.annotation):
            groups.append(parameter.annotation)
        elif parameter.name != "given":
            _add(parser, keys, parameter, helps[parameter.name])
    for kind in groups:
        documentation = inspect.getdoc(kind) or ""
        group, helps = parser.add_argument_group(_title(documentation)), argument_help(documentation)
        for field in inspect.signature(kind).parameters.values():
            _add(group, keys, field, helps[field.name])
    if "config" in inspect.signature(command).parameters:
        _add_config(parser, keys, RunConfig(), short)
    return parser, keys


def defaults(command: Callable[..., None]) -> dict[str, Any]:
    """The options of a command by their parameters, those of its dataclasses too, and their defaults."""
    found: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        several = dataclasses.is_dataclass(parameter.annotation)
        found |= defaults(parameter.annotation) if several else {parameter.name: parameter.default}
    return found


def _title(documentation: str) -> str:
    """The first line of a docstring, as that of a group of options."""
    return documentation.partition("\n")[0].rstrip(".").replace("None", "null")


def argument_help(documentation: str) -> dict[str, str]:
    """The text on each argument in the "Args:" section that ends a docstring."""
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", documentation.partition("Args:\n")[2], re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in entries}


def check_file(parser: ArgumentParser, keys: Types, path: str) -> None:
    """ValueError, naming line and key, for a YAML file that is missing, broken or not what the keys ask for."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise ValueError(f"the config file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"the config file {path} is not text in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise ValueError(f"{place}: this is not YAML ({getattr(error, 'problem', None) or error})") from None
    lines = _lines(root, keys, path)
    try:
        parser.parse_string(text, defaults=False)
    except ArgumentError as error:
        sentence = _sentence(str(error), keys)
        line = lines.get(sentence.partition(" ")[0])
        raise ValueError(f"{path}{f', line {line}' if line else ''}: {sentence}") from None


def _lines(node: yaml.Node | None, keys: Types, path: str, section: str = "") -> dict[str, int]:
    """The line of every key in a YAML mapping; ValueError where a key is unknown or there twice, or there are none."""
    if not isinstance(node, yaml.MappingNode):
        place = f"{path}, line {node.start_mark.line + 1}: {section.rstrip('.') or 'the file'}" if node else path
        raise ValueError(f"{place} must hold keys, one 'key: value' a line")
    lines: dict[str, int] = {}
    for name, value in node.value:
        key, line = f"{section}{name.value}", name.start_mark.line + 1
        if key in lines:
            raise ValueError(f"{path}, line {line}: the key {key!r} is already on line {lines[key]}")
        lines[key] = line
        if any(known.startswith(f"{key}.") for known in keys):
            lines |= _lines(value, keys, path, f"{key}.")
        elif key not in keys:
            siblings = {known[len(section) :].partition(".")[0] for known in keys if known.startswith(section)}
            raise ValueError(f"{path}, line {line}: unknown key {key!r}: {_hint(str(name.value), siblings, keys)}")
    return lines


def _hint(name: str, siblings: Iterable[str], every: Iterable[str]) -> str:
    """The nearest of the names that could stand here, or anywhere; else all that could stand here."""
    places = [key for key in every if key.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, siblings, n=1) or places or difflib.get_close_matches(name, every, n=1)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"choose from {', '.join(sorted(siblings))}"


def _files_first(argv: list[str]) -> list[str]:
    """The same options with --config before all others, which win over the file wherever it stands."""

    def later(i: int) -> bool:
        return not (argv[i] == "--config" or argv[i].startswith("--config=") or (i > 0 and argv[i - 1] == "--config"))

    return [argv[i] for i in sorted(range(len(argv)), key=later)]


def _long(argument: str, short: dict[str, str]) -> str:
    option, equals, value = argument.partition("=")
    return short.get(option, option) + equals + value


def _value(values: Namespace, parameter: inspect.Parameter) -> Any:
    """What was parsed for one parameter."""
    value = values[_key(parameter)]
    return tuple(value) if isinstance(value, list) else value


def _add(parser: Any, keys: Types, parameter: inspect.Parameter, text: str) -> None:
    """One argument for one parameter."""
    name, kind, default = _key(parameter), parameter.annotation, parameter.default
    several: dict[str, Any] = {}
    if get_origin(kind) is tuple:  # tuple[X, ...]: any number of X, as separate words
        kind = get_args(kind)[0]
        several = {"nargs": "*" if default is parameter.empty else "+"}
    if parameter.kind is not parameter.KEYWORD_ONLY:
        parser.add_argument(name, type=kind, help=text, **several)
        return
    keys[name] = kind
    if kind is bool:
        parser.add_argument(_option(name), action="store_true", help=text)
    else:
        _add_option(parser, _option(name), kind, list(default) if several else default, text, **several)


def _key(parameter: inspect.Parameter) -> str:
    """The name of an argument, without the underscore that keeps it from being a word of Python."""
    return parameter.name.rstrip("_")


def _option(key: str) -> str:
    """A key as it is written on the command line; those of a configuration keep their underscores, as in YAML."""
    return f"--{key if '.' in key else key.replace('_', '-')}"


def _add_option(group: Any, option: str, kind: Any, default: Any, text: str, **several: Any) -> None:
    """An option that says its type and default in the words of YAML."""
    if several or (get_origin(kind) is not Literal and kind is not bool):  # those list their choices
        several["metavar"] = option.lstrip("-").rpartition(".")[2].upper().replace("-", "_")
    shown = default if isinstance(default, (str, Path)) else json.dumps(default)
    words = f"{text.rstrip('.')} ({describe(kind)}; default: {shown})".replace("None", "null").replace("%", "%%")
    group.add_argument(option, type=kind, default=default, help=words, **several)


def _add_config(parser: Any, keys: Types, config: Any, short: dict[str, str], section: str = "") -> None:
    """One option for every key of a configuration, in a group for each of its dataclasses."""
    documentation = inspect.getdoc(config) or ""
    helps = argument_help(documentation)
    group = parser.add_argument_group(_title(documentation))
    sections = []
    for field in dataclasses.fields(config):
        key, default = f"{section}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(default):
            sections.append((default, f"{key}."))
            continue
        keys[key] = field.type
        text = (f"{short[f'--{key}']} for short; " if f"--{key}" in short else "") + helps[field.name]
        _add_option(group, f"--{key}", field.type, default, text)
    for default, prefix in sections:
        _add_config(parser, keys, default, short, prefix)


def _build(cls: type, values: Namespace) -> Any:
    """A dataclass of dataclasses from the namespace of its values."""
    return cls(
        **{
            field.name: _build(field.type, values[field.name])
            if dataclasses.is_dataclass(field.type)
            else values[field.name]
            for field in dataclasses.fields(cls)
        }
    )


def _sentence(message: str, keys: Types, option: bool = False) -> str:
    """jsonargparse's message as one sentence; `option`: the key stands on the command line."""
    if match := re.match(r'Parser key "([^"]+)".*(?:Got|Given) value: (.*)', message, re.DOTALL):
        key, value = match.groups()
        return f"{_option(key) if option else key} must be {describe(keys[key])}, not {value!r}"
    if match := re.match(r"unrecognized arguments: ([^\s=]+)", message):
        argument = match[1]
        if not argument.startswith("-"):
            return f"the argument {argument!r} is one too many; --help lists the options"
        options = {_option(key): key.rpartition(".")[2] for key in keys}
        name = argument.lstrip("-").replace("-", "_")
        near = [option for option, leaf in options.items() if leaf == name]
        near = near or [f"--{key}" for key in difflib.get_close_matches(name, [o[2:] for o in options], n=1)]
        hint = f": did you mean {' or '.join(near)}?" if near else "; --help lists the options"
        return f"unknown option {argument} on the command line{hint}"
    if match := re.match(r"argument (\S+): expected", message):
        return f"{match[1]} needs a value"
    return " ".join(message.split())


def describe(kind: Any, several: bool = False) -> str:
    """A type in words, in the plural for `several`: "a whole number, or null"."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(map(str, arguments[:-1])) + f" or {arguments[-1]}"
    if origin is list:
        return f"a list of {describe(arguments[0], several=True)}"
    if origin is tuple:
        return f"a list of {len(arguments)} {describe(arguments[0], several=True)}"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}
    word = words.get(kind, "null")
    return f"{word}s" if several else f"a {word}" if kind in (int, float, Path) else word
