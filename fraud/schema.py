"""The data contract: `from fraud.schema import Schema, validate, infer`; `python -m fraud.schema --help`."""

from __future__ import annotations

from fraud.columns import LARGEST_NUMBER, Column, History
from fraud.contract import Schema, shipped_names
from fraud.validation import Validated, Validator, validate

__all__ = ["LARGEST_NUMBER", "Column", "History", "Schema", "Validated", "Validator", "shipped_names", "validate"]
