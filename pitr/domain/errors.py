"""The five families of errors, one per reaction of a caller; codes are public, messages are not."""

from __future__ import annotations

from typing import ClassVar


class PitrError(Exception):
    """Base of everything pitr raises on purpose.

    Args:
        message: Lower case, one sentence, without the facts.
        hint: The next thing to try, as a sentence or a command. Faces print it on its own line.
        facts: Appended to the message as ``name=value`` and carried in JSON output.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, **facts: object) -> None:
        self.message = message
        self.hint = hint
        self.facts = facts
        super().__init__(" ".join([message, *(f"{name}={value}" for name, value in facts.items())]))


class InvalidRequest(PitrError):
    """Change the request: it can never succeed as it stands."""

    code = "invalid_request"


class NotFound(PitrError):
    """The named thing does not exist, or does not exist yet."""

    code = "not_found"


class Conflict(PitrError):
    """Another writer won, or the world is not as the caller assumed: reread and decide again."""

    code = "conflict"


class Unavailable(PitrError):
    """A dependency did not answer: retry with backoff."""

    code = "unavailable"


class DataLoss(PitrError):
    """Bytes are missing or wrong: stop and wake a human."""

    code = "data_loss"


class TargetBeyondWatermark(Conflict):
    """The target is ahead of what is captured; the answer could still change."""

    code = "target_beyond_watermark"


class PositionConflict(Conflict):
    """The lane does not stand where the batch starts. ``facts['expected']`` is where it stands."""

    code = "position_conflict"


class LaneTaken(Conflict):
    """Another worker captures the lane by now: stop, and store nothing more of it."""

    code = "lane_taken"


class SequenceMoved(Conflict):
    """The log grew since a segment was prepared for its next seq: prepare it again."""

    code = "sequence_moved"


class IdempotencyConflict(Conflict):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"


class SinkNotEmpty(Conflict):
    """The place to restore into holds something already; nothing was changed."""

    code = "sink_not_empty"


class TooLarge(InvalidRequest):
    """The input exceeds a named limit."""

    code = "too_large"


class Busy(Unavailable):
    """A bounded queue is full. ``facts['retry_after_s']`` says when to come back, seconds."""

    code = "busy"
