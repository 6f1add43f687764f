"""A YAML file as nodes that know their name and line, for messages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import yaml

from fraud.configuration import Loader
from fraud.errors import ConfigError, closest

_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_DEEPEST = 3  # a list in a list in a form


@dataclass(frozen=True)
class Node:
    """One value of the file. name: dotted, "" for the root; line: of its key, or its own in a list."""

    file: str
    name: str
    line: int
    yaml: yaml.Node

    def error(self, message: str) -> ConfigError:
        """An error with the file, line and name: "space.yaml, line 12: autoencoder.lr: MESSAGE"."""
        return ConfigError(f"{self.file}, line {self.line}: {self.name + ': ' if self.name else ''}{message}")

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.yaml, yaml.MappingNode)

    def mapping(self, known: Collection[str], *, may_be_empty: bool = False) -> dict[str, Node]:
        """Its values by key. Raises ConfigError: not a mapping, empty, a key unknown (names the nearest) or twice."""
        if may_be_empty and not self.is_mapping and self.value() is None:
            return {}
        if not self.is_mapping or not (self.yaml.value or may_be_empty):
            state = "is empty" if self.is_mapping or self.value() is None else "is not a mapping"
            raise self.error(f"{state}: name one of {', '.join(known)}, or remove it")
        children: dict[str, Node] = {}
        for key, value in self.yaml.value:
            name = key.value[:80] if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            child = Node(self.file, f"{self.name}.{name}".lstrip("."), key.start_mark.line + 1, value)
            if name not in known:
                near = closest(name, known) or f": use one of {', '.join(known)}"
                raise child.error(f"unknown key{near}")
            if name in children:
                raise child.error(f"set twice, first in line {children[name].line}: keep one")
            children[name] = child
        return children

    def items(self) -> list[Node]:
        """The elements of a list. Raises ConfigError for anything else."""
        if not isinstance(self.yaml, yaml.SequenceNode):
            raise self.error(f"{self.shown()} must be a list, such as [1, 2]")
        return [Node(self.file, self.name, item.start_mark.line + 1, item) for item in self.yaml.value]

    def value(self, depth: int = 0) -> Any:
        """As Python: None, bool, int, float, str, or a list of those. Raises ConfigError for anything else."""
        if isinstance(self.yaml, yaml.SequenceNode) and depth < _DEEPEST:
            return [item.value(depth + 1) for item in self.items()]
        if not isinstance(self.yaml, yaml.ScalarNode):
            raise self.error("expected a value, got a mapping or a list that is nested too deeply")
        if self.yaml.tag not in _SCALARS:
            raise self.error(f"{self.yaml.value!r} is a {self.yaml.tag.rsplit(':')[-1]}; quote it to make it text")
        try:
            return Loader("").construct_object(self.yaml)
        except (yaml.YAMLError, ValueError, KeyError):
            raise self.error(f"{self.yaml.value[:40]!r} cannot be read as {self.yaml.tag.rsplit(':')[-1]}") from None

    def shown(self) -> str:
        """The value for a message, on one line."""
        if isinstance(self.yaml, yaml.ScalarNode):
            return repr(self.yaml.value[:40])
        return "a mapping" if self.is_mapping else "a list"


def compose(text: str, file: str) -> Node:
    """Parse YAML text safely. Raises ConfigError with the line of a syntax error."""
    try:
        root = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line_number = text[: error.position].count("\n") + 1
        raise ConfigError(f"{file}, line {line_number}: not valid YAML: {error.reason}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply to be a search space") from None
    if root is None:
        raise ConfigError(f"{file}: empty: name what to search, e.g. forest: {{max_samples: {{choice: [256, 1024]}}}}")
    return Node(file, "", 1, root)
