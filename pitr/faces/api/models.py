"""What comes in through the doors, checked by pydantic, and the shapes that OpenAPI shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pitr.domain.change import Op, Quarantined
from pitr.domain.search import MATCHES_MAX, Query
from pitr.domain.target import parse_moment
from pitr.domain.where import parse_conditions
from pitr.faces.documents import Document, appended_document, plain_text
from pitr.faces.keys import key_of
from pitr.services.http_ingest import IngestAnswer, IngestRequest

QUARANTINED_SHOWN_MAX = 100
"""Unreadable lines that one answer lists; ``quarantined_count`` counts all."""

TX_CHARS_MAX = 64 * 1024
"""Longest name of a transaction; a server's limit on a URL is below it."""

MarkName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class Door(BaseModel):
    """Refuses what it does not know: a misspelt parameter must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestQuery(Door):
    """The query of ``POST /v1/logs/{log}/changes``."""

    lane: str | None = Field(None, description="who sends; with position. Its changes are ordered")
    position: int | None = Field(
        None, ge=0, description="position in the lane of the body's first line or element"
    )
    format: Literal["native", "debezium", "auto"] = Field("auto", description="how a change reads")
    key_columns: str | None = Field(
        None, description="key columns of Debezium records without a key, separated by commas"
    )
    strict: bool = Field(False, description="store nothing if any line cannot be read")

    def request(
        self, log: str, *, shape: Literal["lines", "json"], idempotency_key: str | None
    ) -> IngestRequest:
        """What the service is asked for."""
        columns = [name.strip() for name in (self.key_columns or "").split(",")]
        return IngestRequest(
            log=log,
            shape=shape,
            format=self.format,
            key_columns=tuple(name for name in columns if name) or None,
            lane=self.lane,
            position=self.position,
            idempotency_key=idempotency_key,
            strict=self.strict,
        )


class HistoryQuery(Door):
    """The query of ``GET /v1/logs/{log}/history``."""

    collection: str = Field(min_length=1, description="collection of the row")
    key: str = Field(
        min_length=1,
        description='key of the row: `42`, `"a"` or `{"id":42}`; what is not JSON is a string',
    )
    limit: int = Field(100, ge=1, le=10_000, description="newest changes to return")


class QuarantineQuery(Door):
    """The query of ``GET /v1/logs/{log}/quarantine``."""

    status: Literal["waiting", "replayed", "dismissed", "all"] = "waiting"
    id_first: int = Field(0, ge=0, le=2**62, description="first id to return")
    limit: int = Field(100, ge=1, le=1_000)


class DescribeQuery(Door):
    """The query of ``GET /v1/logs/{log}/describe``."""

    target: str = Field(
        "latest",
        min_length=1,
        max_length=1_000,
        description="a time with an offset, `now-10m`, `latest`, `seq:42`, `before-seq:42`, "
        "`mark:NAME` or `before-tx:ID`",
    )


class FindQuery(Door):
    """The query of ``GET /v1/logs/{log}/find``; lists are given by repeating the parameter."""

    collection: list[Text] = Field(
        [], max_length=100, description="only these; `*` stands for any text"
    )
    key: Text | None = Field(None, description="only the row with this key, as in history")
    op: list[Op] = Field([], description="only these operations")
    actor: Text | None = Field(None, description="only what they did; `*` stands for any text")
    reason: Text | None = Field(None, description="only what has this text in its reason")
    tx: str | None = Field(
        None, min_length=1, max_length=TX_CHARS_MAX, description="only this transaction"
    )
    lane: Text | None = Field(None, description="only what came by it; `*` stands for any text")
    since: Text | None = Field(None, description="from then on: a time with an offset, `now-2h`")
    until: Text | None = Field(None, description="up to then, inclusive")
    where: list[str] = Field(
        [], description="only rows like `total > 100`, before or after; all must hold"
    )
    min: int = Field(1, ge=1, le=2**62, description="only transactions with so many such changes")
    limit: int = Field(20, ge=1, le=MATCHES_MAX, description="transactions to return")
    order: Literal["newest", "oldest"] = Field("newest", description="which come first")

    def query(self, *, now_us: int) -> Query:
        """What is searched for."""

        def moment(text: str | None, name: str) -> int | None:
            return None if text is None else parse_moment(text, now_us=now_us, name=name)

        return Query(
            collections=tuple(self.collection),
            key=None if self.key is None else key_of(self.key),
            ops=frozenset(self.op),
            actor=self.actor,
            reason=self.reason,
            txs=frozenset() if self.tx is None else frozenset({self.tx}),
            lane=self.lane,
            since_us=moment(self.since, "since"),
            until_us=moment(self.until, "until"),
            where=parse_conditions(self.where),
            count_min=self.min,
            limit=self.limit,
            oldest_first=self.order == "oldest",
        )


class MarkBody(Door):
    """The body of ``POST /v1/logs/{log}/marks``."""

    name: MarkName
    target: str = Field("latest", min_length=1, max_length=1_000, description="moment to name")
    actor: Text | None = None
    reason: Text | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "before-deploy-42", "actor": "user:7", "reason": "deploy 42"},
                {"name": "last-good", "target": "2026-03-01T09:30:00Z"},
            ]
        }
    )


class QuarantinedLine(BaseModel):
    """A line or element that could not be read; ``line`` counts from 1."""

    position: int
    line: int
    code: str
    reason: str


class IngestAnswerBody(BaseModel):
    """The answer to an ingest: everything in it is durable."""

    log: str
    lane: str
    position_end: int
    stored: int
    seq_first: int | None
    seq_end: int | None
    duplicate: bool
    quarantined_count: int
    clamped_count: int
    quarantined: list[QuarantinedLine]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "log": "main",
                    "lane": "shop-1",
                    "position_end": 1002,
                    "stored": 1,
                    "seq_first": 512,
                    "seq_end": 513,
                    "duplicate": False,
                    "quarantined_count": 1,
                    "clamped_count": 0,
                    "quarantined": [
                        {
                            "position": 1001,
                            "line": 2,
                            "code": "not_json",
                            "reason": "change: JSON is malformed: expected ':' (byte 14)",
                        }
                    ],
                }
            ]
        }
    )


class Problem(BaseModel):
    """RFC 9457 problem details; ``code`` is what programs look at."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    facts: dict[str, Any] = {}

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:pitr:error:position_conflict",
                    "title": "Conflict",
                    "status": 409,
                    "detail": "the lane does not stand where the batch starts",
                    "code": "position_conflict",
                    "hint": "send again from position 1000",
                    "facts": {"lane": "shop-1", "expected": 1000, "got": 1200},
                }
            ]
        }
    )


class StrictProblem(Problem):
    """The problem of a strict request with lines that cannot be read."""

    quarantined: list[QuarantinedLine]


def ingest_answer_document(log: str, answer: IngestAnswer) -> Document:
    """The answer to an ingest; ``quarantined`` shows the first of them."""
    return appended_document(log, answer.appended) | {
        "quarantined_count": len(answer.quarantined),
        "quarantined": quarantined_documents(answer.quarantined, answer.position_first),
    }


def quarantined_documents(found: Iterable[Quarantined], position_first: int) -> list[Document]:
    """The first lines that could not be read, each with its line in the body."""
    shown = list(found)[:QUARANTINED_SHOWN_MAX]
    return [
        {
            "position": item.position,
            "line": item.position - position_first + 1,
            "code": item.code,
            "reason": plain_text(item.reason),
        }
        for item in shown
    ]
