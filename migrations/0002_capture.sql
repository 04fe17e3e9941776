-- Capture from a source that is pulled: who may append to a lane, and what the source said last.

ALTER TABLE pitr.lanes
    ADD COLUMN owner        text,   -- the worker that claimed the lane last; only it may append
    ADD COLUMN source_first bigint, -- the first position that the source still has
    ADD COLUMN source_end   bigint, -- the position after the source's last one
    ADD COLUMN seen_us      bigint, -- when the source said so
    ADD COLUMN rate         double precision, -- changes a second
    ADD COLUMN problem      text;   -- why the lane does not move, or soon will not

-- Headers and time of a quarantined Kafka record, as JSON.
ALTER TABLE pitr.quarantine ADD COLUMN meta text;
