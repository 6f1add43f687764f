"""The models of requests and responses. The transaction's is built from the bundle's schema."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, WithJsonSchema, create_model
from typing_extensions import TypedDict

from fraud.detectors.base import Fitted, column_of
from fraud.detectors.registry import DETECTORS
from fraud.schema import Column, Schema
from fraud.schema.inference import written
from serve_app.request.fields import check_of, json_schema_of


class Reason(BaseModel):
    """One column that made the transaction suspicious."""

    column: str = Field(description="The column of the request to look at.", examples=["device_score"])
    feature: str = Field(description="The feature of that column that is most unusual.", examples=["device_score"])
    value: float | str | None = Field(description="The feature's value in this transaction.", examples=[0.92])
    typical: float | str | None = Field(description="Its value in a typical normal transaction.", examples=[0.14])
    contribution: float = Field(
        description="Powers of ten by which this column makes the transaction rarer among normal ones; those of all "
        "columns, listed or not, add up to the whole distance from a typical transaction.",
        examples=[1.4],
    )
    text: str = Field(
        description="The same as a sentence, in the units of the data.",
        examples=["device_score 0.92 is above the usual 0.14"],
    )


class _Decided(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    score: float = Field(ge=0, le=1, description="Risk of fraud, 0 to 1; higher is more suspicious.", examples=[0.97])
    is_fraud: bool = Field(description="Whether the score reaches the threshold.", examples=[True])
    threshold: float = Field(description="The decision threshold in force.", examples=[0.91])


def _score_field(detector: type[Fitted]) -> tuple[Any, Any]:
    says, examples = f"What the {detector.title} alone says", [detector.example]
    if not detector.is_optional:
        return float, Field(ge=0, le=1, description=f"{says}.", examples=examples)
    says += "; left out where the model has none."
    return float | None, Field(default=None, ge=0, le=1, description=says, examples=examples)


_DETECTOR_SCORES: dict[str, Any] = {column_of(detector.name): _score_field(detector) for detector in DETECTORS}
_ByDetector = create_model("_ByDetector", __base__=_Decided, **_DETECTOR_SCORES)


class Scored(_ByDetector):  # type: ignore[valid-type, misc]
    """The score of one transaction, and the decision."""

    model_version: str = Field(description="The model that answered; see GET /model.", examples=["3"])
    warnings: list[str] = Field(
        default=[], description="What the score had to do without, such as the live history while its store is down."
    )
    id: str | None = Field(default=None, description="The transaction's own id, where the schema has an id column.")


class Answer(Scored):
    """The score of one transaction, the decision, and what made it suspicious."""

    reasons: list[Reason] = Field(
        description="What made it suspicious, strongest first; of one that is not flagged only if asked for."
    )


class Explanation(Answer):
    """An answer with the whole account of it."""

    evidence: float = Field(description="Powers of ten by which the transaction is rare among normal ones.")
    typical_evidence: float = Field(
        description="The same of a typical one; evidence less this is what the columns' contributions add up to."
    )
    columns: list[Reason] = Field(
        description="Every column, the most suspicious first; a negative contribution speaks for the transaction."
    )


class Problem(BaseModel):
    """One thing wrong with a request, in the shape of FastAPI's own validation errors plus `field` and `remedy`."""

    type: str = Field(description="Kind of problem, for programs.", examples=["out_of_range"])
    loc: list[str] = Field(description="Where: body, header or path; the field.", examples=[["body", "device_score"]])
    msg: str = Field(description="What is wrong, for people.", examples=["device_score: 1.5 is outside 0 to 1"])
    field: str | None = Field(description="The field at fault; null for the whole request.", examples=["device_score"])
    remedy: str = Field(description="What to do about it.", examples=["send a number from 0 to 1"])


class Problems(BaseModel):
    """Every answer that is not a success."""

    detail: list[Problem]


class BatchAnswer(Scored):
    """The answer to one transaction of a batch."""

    reasons: list[Reason] | None = Field(default=None, description="As in the answer of /score; only if asked for.")


class BatchRejection(BaseModel):
    """A transaction of a batch that is wrong."""

    row: int = Field(ge=0, description="Which one, from 0.", examples=[17])
    detail: list[Problem] = Field(description="What is wrong with it, as /score would say.")


class BatchAnswers(BaseModel):
    """The answers to a batch, in its order."""

    model_config = ConfigDict(protected_namespaces=())

    results: list[BatchAnswer | BatchRejection]
    scored: int = Field(description="How many transactions have a score.")
    rejected: int = Field(description="How many are wrong.")
    model_version: str = Field(description="The model that answered all of them.")


class PlanStatus(BaseModel):
    """The live history of one entity column."""

    entity: str = Field(description="The column.")
    plan: str = Field(description="Fingerprint of what is remembered.")
    began_from: str | None = Field(description="snapshots, bundle, saved or nothing; null until it has begun.")
    through: str | None = Field(default=None, description="The day or time up to which it began with.")
    decisions: int = Field(default=0, description="Decisions that were entered from the decision log on top.")
    at: str | None = Field(default=None, description="When it began.")
    note: str = Field(default="", description="What is not as good as it could be.")


class HistoryStatus(BaseModel):
    """The live history of this replica."""

    store: str = Field(description="node, memory, redis, rediss or unix.")
    is_behind: bool = Field(description="Whether it is still being filled.")
    plans: list[PlanStatus]
    newest_event: str | None = Field(description="Time of the newest transaction in it.")
    newest_label: str | None = Field(description="When the newest label became known that the live history has.")
    notes: list[str] = Field(description="What the operator should know.")


class Status(BaseModel):
    """Answer of the health endpoints."""

    status: str = Field(examples=["ok"])
    history: HistoryStatus | None = Field(default=None, description="GET /readyz, where the model has history.")


class ModelInfo(BaseModel):
    """Which model answers, what it expects, where its threshold comes from and how it did on its test window."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(description="Name in the model registry.")
    model_version: str = Field(description="Version in the registry; for a bundle loaded from a folder, its hash.")
    bundle_sha256: str = Field(description="SHA-256 of the bundle's manifest, which covers every other file.")
    created: str | None = Field(description="When the bundle was written, ISO 8601.")
    git_commit: str | None = Field(description="Commit of the code that trained it.")
    data_fingerprint: str | None = Field(description="SHA-256 of the training data.")
    schema_fingerprint: str = Field(description="SHA-256 of the schema.")
    data_schema: dict[str, Any] = Field(description="The data contract: columns, kinds, ranges.")
    threshold: dict[str, Any] = Field(description="Value, policy, settings, window, what it achieved, interval.")
    metrics: dict[str, Any] = Field(description="Metrics of each detector and of the joined score on the test window.")
    windows: list[dict[str, Any]] = Field(description="Train, validation and test window: start, end, rows, frauds.")
    libraries: dict[str, Any] = Field(description="Versions of the libraries that trained it.")
    trial: bool = Field(default=False, description="Made from synthetic transactions for a first try; decide nothing.")


def transaction_type(schema: Schema) -> TypeAdapter[dict[str, object]]:
    """Build the validator of a transaction: a mapping of exactly the schema's inputs; nullable ones are optional.

    A TypedDict instead of a model, because a column may have any name: "class", "model_config", "Unnamed: 0".
    """
    fields: dict[str, Any] = {column.name: _field(column) for column in schema.inputs}
    make: Any = TypedDict  # type checkers need literal fields
    transaction = make("Transaction", fields)
    transaction.__doc__ = f"{written(schema.description)} One transaction by schema {schema.name!r}.".strip()
    transaction.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(transaction)


def _field(column: Column) -> Any:
    kind = Annotated[Any, PlainValidator(check_of(column)), WithJsonSchema(json_schema_of(column))]
    return NotRequired[kind] if column.nullable else kind
