"""The data contract: `from fraud.schema import Schema, validate, infer`; `python -m fraud.schema --help`."""

from fraud.schema.columns import LARGEST_NUMBER, Column, History
from fraud.schema.contract import Schema, shipped_names
from fraud.schema.inference import infer
from fraud.schema.validation import Validated, Validator, validate

__all__ = [
    "LARGEST_NUMBER",
    "Column",
    "History",
    "Schema",
    "Validated",
    "Validator",
    "infer",
    "shipped_names",
    "validate",
]
