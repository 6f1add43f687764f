"""The data contract: a Schema describes a table of transactions. It is read from YAML and saved in the bundle."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fraud.days import UTC, Zone
from fraud.errors import ConfigError, SchemaError, closest
from fraud.schema.columns import Column, History, Kind, is_number, require

SHIPPED_FOLDER = Path(__file__).parents[1] / "schemas"
_AT_MOST_ONE: tuple[Kind, ...] = ("timestamp", "id", "label")
_FEATURE_KINDS = ("numeric", "categorical", "boolean")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses duplicate keys (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} appears twice{node.start_mark}; keep one")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The data contract.

    history_events: newest transactions remembered per entity; a window never reaches further. label_delay_days: time
    from a transaction to its label. day_zone: time zone of days and of calendar features. ignore: columns that the
    files may have and nothing uses. Raises SchemaError if two columns have one role, or a history names an unsuitable
    column.
    """

    name: str
    columns: tuple[Column, ...]
    description: str = ""
    history: tuple[History, ...] = ()
    history_events: int = 200
    label_delay_days: float = 0.0
    day_zone: str = UTC.name
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and bool(self.name.strip()), "file", "name is empty; give the schema a name")
        where = f"{self.name!r}"
        names = [column.name for column in self.columns]
        require(bool(names), where, "columns is empty; list at least one")
        repeated = sorted({name for name in names if names.count(name) > 1})
        require(not repeated, where, f"column {', '.join(repeated)} is listed twice; keep one")
        for kind in _AT_MOST_ONE:
            several = [column.name for column in self.columns if column.kind == kind]
            require(
                len(several) < 2,
                where,
                f"columns {', '.join(several)} are all of kind {kind}; keep one, ignore the others",
            )
        both = sorted(set(names) & set(self.ignore))
        require(not both, where, f"{', '.join(both)} is in `columns` and in `ignore`; keep it in one of them")
        derived = self.history or (self.timestamp and self.timestamp.calendar)
        require(
            bool(self.features or derived),
            where,
            "there is nothing to learn from; add a numeric, categorical or boolean column",
        )
        delay = self.label_delay_days
        require(
            is_number(delay) and delay >= 0, where, f"label_delay_days {delay!r} must be a number of days, 0 or more"
        )
        events = self.history_events
        is_valid = isinstance(events, int) and not isinstance(events, bool) and 1 <= events <= 100_000
        require(is_valid, where, f"history_events {events!r} must be a whole number, 1 to 100000")
        require(isinstance(self.day_zone, str), where, f"day_zone {self.day_zone!r} must be a text; put it in quotes")
        try:
            Zone(self.day_zone)
        except ConfigError as error:
            raise SchemaError(f"schema {where}: {error}") from None
        for history in self.history:
            self._check_history(history)

    def _check_history(self, history: History) -> None:
        where = f"{self.name!r}, history of {history.entity!r}"
        kind = self.column(history.entity).kind
        require(
            kind in ("entity", "categorical"), where, f"the column is {kind}; its kind must be entity or categorical"
        )
        for name in (*([history.value] if history.value else []), *history.location):
            kind = self.column(name).kind
            require(kind == "numeric", where, f"column {name!r} is {kind}; name a numeric column")
        if history.of is not None:
            kind = self.column(history.of).kind
            named = kind in ("categorical", "entity")
            require(named, where, f"of {history.of!r} is {kind}; name a category or an entity")
            require(history.of != history.entity, where, "of is the entity itself; name another column")
        timed = self.timestamp is not None and not self.timestamp.nullable
        require(timed, where, "a history needs a timestamp in every row; add such a column or remove the history")
        labelled = [statistic for statistic in history.statistics if statistic in ("risk", "frauds")]
        require(
            not labelled or self.label is not None,
            where,
            f"{', '.join(labelled)} needs a label column; add one or drop it",
        )

    def _only(self, kind: Kind) -> Column | None:
        return next((column for column in self.columns if column.kind == kind), None)

    @cached_property
    def label(self) -> Column | None:
        return self._only("label")

    @cached_property
    def timestamp(self) -> Column | None:
        return self._only("timestamp")

    @cached_property
    def id(self) -> Column | None:
        """The column that identifies a row, or None."""
        return self._only("id")

    @cached_property
    def entities(self) -> tuple[Column, ...]:
        """The entity columns, in schema order."""
        return tuple(column for column in self.columns if column.kind == "entity")

    @cached_property
    def inputs(self) -> tuple[Column, ...]:
        """The columns of a /score request: all but the label, in schema order."""
        return tuple(column for column in self.columns if column.kind != "label")

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The numeric, categorical and boolean columns, in schema order."""
        return tuple(column for column in self.columns if column.kind in _FEATURE_KINDS)

    def column(self, name: str) -> Column:
        """The column called `name`. Raises SchemaError with the nearest name."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise SchemaError(
            f"schema {self.name!r} has no column {name!r}{closest(name, names)} (it has {', '.join(names)})"
        )

    @classmethod
    def load(cls, path_or_name: str) -> Schema:
        """Read a schema from a YAML path, or by the name of a shipped one (`shipped_names()`).

        Raises SchemaError naming the file, the key and the remedy.
        """
        shipped = shipped_names()
        if path_or_name in shipped:
            path = SHIPPED_FOLDER / f"{path_or_name}.yaml"
        elif path_or_name.endswith((".yaml", ".yml")):
            path = Path(path_or_name)
        else:
            near = closest(path_or_name, shipped)
            raise SchemaError(
                f"no shipped schema is called {path_or_name!r}{near or ';'} use {', '.join(shipped)} or a .yaml path"
            )
        try:
            raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
        except FileNotFoundError:
            raise SchemaError(
                f"schema file {path} does not exist; `python -m fraud.schema infer DATA --out {path}` writes one"
            ) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SchemaError(f"schema file {path} cannot be read as YAML: {error}") from None
        try:
            return cls.from_dict(raw)
        except SchemaError as error:
            raise SchemaError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Schema:
        """Build a schema from the output of `to_dict`. Raises SchemaError for an unknown key."""
        values = _checked_keys(cls, raw, "file")
        name = values.get("name")
        values["columns"] = tuple(
            _build(Column, part, f"{name!r}, column {number}")
            for number, part in enumerate(_listed(values, "columns", "file"), 1)
        )
        values["history"] = tuple(
            _build(History, part, f"{name!r}, history {number}")
            for number, part in enumerate(_listed(values, "history", "file"), 1)
        )
        values["ignore"] = tuple(_listed(values, "ignore", "file"))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without keys at their default; `from_dict` reverses it."""
        return _plain(self)

    def to_yaml(self) -> str:
        """YAML text that `load` reads back to an equal schema."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the schema's content; comments and layout do not matter."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def shipped_names() -> tuple[str, ...]:
    """Names of the schemas in the package, sorted."""
    return tuple(sorted(path.stem for path in SHIPPED_FOLDER.glob("*.yaml")))


def _checked_keys(kind: type, raw: object, where: str) -> dict[str, Any]:
    """Keyword arguments for the dataclass `kind`. Raises SchemaError for an unknown or missing key."""
    if not isinstance(raw, Mapping):
        raise SchemaError(f"schema {where}: expected `key: value` lines, got {type(raw).__name__} {str(raw)[:60]!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in raw:
        near = closest(str(key), fields)
        require(key in fields, where, f"key {key!r} is unknown{near or ';'} the keys are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        require(not required or name in raw, where, f"key {name!r} is missing; add it")
    return dict(raw)


def _listed(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """The list under `key`; an absent or empty key is an empty list."""
    value = values.get(key)
    if value is None:
        return []
    require(isinstance(value, list | tuple), where, f"{key} must be a list; start each item with `- `")
    return list(value)


def _build(kind: type, raw: object, where: str) -> Any:
    values = _checked_keys(kind, raw, where)
    for key in ("categories", "calendar", "windows", "location", "statistics"):
        if key in values:
            values[key] = tuple(_listed(values, key, where))
    for key in ("example", "oldest"):
        if isinstance(values.get(key), datetime.date):
            values[key] = values[key].isoformat()  # YAML reads an unquoted date as a date
    return kind(**values)


def _plain(record: Any) -> dict[str, Any]:
    """A dataclass as plain data, without fields at their default; tuples become lists."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        if isinstance(value, tuple):
            value = [_plain(part) if dataclasses.is_dataclass(part) else part for part in value]
        plain[field.name] = value
    return plain
