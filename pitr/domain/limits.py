"""Every bound with a name (invariant 14); settings fill them, services are handed them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds and thresholds. Rows are changes; sizes are bytes of input or of Parquet."""

    skew_us: int = 60_000_000
    segment_rows_min: int = 10_000
    segment_bytes_min: int = 8 * 1024 * 1024
    segment_rows_max: int = 200_000
    segment_bytes_max: int = 128 * 1024 * 1024
    append_queue_bytes_max: int = 128 * 1024 * 1024
    append_group_rows_max: int = 20_000
    body_bytes_max: int = 64 * 1024 * 1024
    ingest_bytes_max: int = 32 * 1024 * 1024
    seal_rows: int = 20_000
    seal_bytes: int = 32 * 1024 * 1024
    seal_age_us: int = 60_000_000
    compact_count_min: int = 8
    compact_bytes_max: int = 512 * 1024 * 1024
    snapshot_changes_min: int = 100_000
    snapshot_age_us: int = 3_600_000_000
    snapshot_part_bytes_max: int = 256 * 1024 * 1024
    snapshots_kept: int = 8
    retired_kept_us: int = 24 * 3_600_000_000
    answers_kept_us: int = 48 * 3_600_000_000
    lateness_us: int = 10_000_000
    capture_rows_max: int = 65_536
    capture_bytes_max: int = 32 * 1024 * 1024
    capture_queue_bytes_max: int = 128 * 1024 * 1024
    capture_linger_us: int = 200_000
    capture_behind_linger_us: int = 1_000_000
    capture_busy_linger_us: int = 2_000_000
    memory_bytes: int = 1024 * 1024 * 1024
    threads: int = 2
