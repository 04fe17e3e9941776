"""Configuration: PITR_ variables and their defaults; with app.py the only reader of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pitr.domain.errors import InvalidRequest
from pitr.domain.formats import Format
from pitr.domain.limits import Limits

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=100 * 366 * 86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Each field is a PITR_ variable of the same name; docs/settings.md tells about each."""

    model_config = SettingsConfigDict(
        env_prefix="PITR_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    data: Path = Field(Path(".pitr"), description="folder of the embedded catalog and store")
    catalog_url: str | None = Field(
        None, description="PostgreSQL database of the catalog; without it pitr runs its own"
    )
    store_url: str | None = Field(
        None, description="where objects live: a folder or file:// URL; without it <data>/store"
    )
    logs_max: Count = Field(1_000, description="logs that a service holds at most")
    log: str = Field("main", description="the log that commands mean when they name none")
    host: str = Field("127.0.0.1", description="address that pitr serve listens on")
    port: int = Field(7717, ge=0, le=65535, description="port that pitr serve listens on; 0 picks")
    log_level: str = Field("info", description="debug, info, warning or error")
    actor: str | None = Field(None, description="who is recorded with operations; your login name")

    skew_s: Seconds = Field(
        60, description="how far ahead a change may be dated; beyond it is clamped"
    )
    body_bytes_max: Count = Field(64 * 2**20, description="longest HTTP body, unpacked")
    queue_bytes_max: Count = Field(128 * 2**20, description="changes that may wait for a commit")
    segment_rows_min: Count = Field(
        10_000, description="a batch of so many changes is sealed at once"
    )
    seal_rows: Count = Field(20_000, description="changes in the tail that make it be sealed")
    seal_age_s: Seconds = Field(60, description="age of the tail that makes it be sealed")
    compact_count_min: Annotated[int, Field(ge=2)] = Field(
        8, description="segments of a size class that are merged into one"
    )
    snapshot_changes_min: Count = Field(
        100_000, description="changes after which a snapshot is made"
    )
    snapshot_age_s: Seconds = Field(3600, description="age at which a snapshot is renewed")
    retired_kept_s: Seconds = Field(86_400, description="how long replaced objects are kept")
    answers_kept_s: Annotated[
        float, Field(ge=86_400, le=100 * 366 * 86_400, allow_inf_nan=False)
    ] = Field(172_800, description="how long an Idempotency-Key is remembered; at least a day")
    memory_bytes: Annotated[int, Field(ge=512 * 2**20)] = Field(
        2**30, description="memory that one restore may use"
    )
    threads: Count = Field(2, description="threads of one replay")

    kafka_bootstrap: str | None = Field(
        None, description="Kafka brokers, host:port with commas between; turns capture on"
    )
    kafka_topics: str | None = Field(None, description="topics to capture, with commas between")
    kafka_pattern: str | None = Field(
        None, description="capture all topics whose whole name matches this expression"
    )
    kafka_group: str | None = Field(
        None, description="consumer group; workers of one log share it; pitr-<log>"
    )
    kafka_from: Literal["beginning", "end"] = Field(
        "beginning", description="where a partition that is new to the log begins"
    )
    kafka_format: Format = Field(
        "auto", description="what records are written in: native, debezium, or auto: each its own"
    )
    kafka_formats: str | None = Field(
        None, description="formats of single topics: orders=debezium,carts=native"
    )
    kafka_key_columns: str | None = Field(
        None, description="keys of Debezium topics without keys: orders=id,lines=order_id+line"
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers"
    )
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="how to log in with SASL"
    )
    kafka_username: str | None = Field(None, description="user name for SASL")
    kafka_password: str | None = Field(None, repr=False, description="password for SASL")
    kafka_ca_file: Path | None = Field(None, description="certificates to trust, PEM")
    kafka_cert_file: Path | None = Field(None, description="certificate of pitr itself, PEM")
    kafka_key_file: Path | None = Field(None, description="key of that certificate, PEM")
    kafka_key_password: str | None = Field(None, repr=False, description="password of that key")
    kafka_session_s: Annotated[float, Field(ge=1, le=300)] = Field(
        10, description="silence after which a worker's partitions go to others"
    )
    source_password: str | None = Field(
        None, repr=False, description="password of attached databases; else PGPASSWORD, ~/.pgpass"
    )
    lateness_s: Seconds = Field(
        10, description="how late a change may arrive; an idle lane is complete up to so long ago"
    )

    @property
    def store_folder(self) -> Path:
        """The store's folder.

        Raises:
            InvalidRequest: The URL is of a kind that this version does not store to.
        """
        if self.store_url is None:
            return self.data / "store"
        if self.store_url.startswith("file://"):
            return Path(self.store_url.removeprefix("file://"))
        if "://" in self.store_url:
            raise InvalidRequest(
                "this version stores to folders only",
                hint="set PITR_STORE_URL to a folder or a file:// URL",
                store_url=self.store_url,
            )
        return Path(self.store_url)

    def limits(self) -> Limits:
        """The bounds that services are handed."""
        return Limits(
            skew_us=_us(self.skew_s),
            body_bytes_max=self.body_bytes_max,
            append_queue_bytes_max=self.queue_bytes_max,
            segment_rows_min=self.segment_rows_min,
            seal_rows=self.seal_rows,
            seal_age_us=_us(self.seal_age_s),
            compact_count_min=self.compact_count_min,
            snapshot_changes_min=self.snapshot_changes_min,
            snapshot_age_us=_us(self.snapshot_age_s),
            retired_kept_us=_us(self.retired_kept_s),
            answers_kept_us=_us(self.answers_kept_s),
            lateness_us=_us(self.lateness_s),
            memory_bytes=self.memory_bytes,
            threads=self.threads,
        )


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def load_settings(**given: object) -> Settings:
    """Read the environment; ``given`` values that are not None win.

    Raises:
        InvalidRequest: A variable has a wrong value; the message names it.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "PITR_" + "_".join(str(part) for part in first["loc"]).upper()
        raise InvalidRequest(
            "a setting is wrong", hint=f"{name}: {first['msg']}", setting=name, value=first["input"]
        ) from error
