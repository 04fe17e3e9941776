"""Documents as responses, and how OpenAPI shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response

from pitr.faces.documents import Document, dumps

PROBLEM_TYPE = "application/problem+json"


def json_response(
    document: Document, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A document as a response."""
    return Response(
        dumps(document),
        status_code=status,
        media_type="application/json",
        headers=dict(headers or {}),
    )


def problem_documented(text: str, *, schema: str = "Problem") -> dict[str, Any]:
    """How OpenAPI shows an error."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": text, "content": {PROBLEM_TYPE: {"schema": reference}}}


def documented(
    text: str, example: Document, *, status: int = 200, **problems: str
) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI shows a route: its answer by example, and its errors.

    Args:
        text: What the answer is.
        example: The answer.
        status: Its status.
        problems: What an error means, by ``_`` and its status; the rest is told in general.
    """
    shown: dict[int | str, dict[str, Any]] = {
        status: {
            "description": text,
            "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
        }
    }
    shown |= {int(name[1:]): problem_documented(why) for name, why in problems.items()}
    return shown | {"default": problem_documented("Any other error")}
