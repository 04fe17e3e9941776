-- Databases whose changes are read from a replication slot, and gaps that heal.

CREATE TABLE pitr.sources (
    log_id      integer NOT NULL REFERENCES pitr.logs,
    name        text    NOT NULL,
    url         text    NOT NULL, -- without a password
    slot        text    NOT NULL,
    publication text    NOT NULL,
    options     jsonb   NOT NULL DEFAULT '{}',
    created_us  bigint  NOT NULL,
    PRIMARY KEY (log_id, name)
);

ALTER TABLE pitr.lanes
    ADD COLUMN lag_bytes bigint; -- of the source's own log that wait to be read

-- A gap that ends: everything from healed_seq_end and at_max_us on is whole again, because the
-- rows were read anew. collection is null where the gap touches all of them.
ALTER TABLE pitr.gaps
    ADD COLUMN collection     text,
    ADD COLUMN healed_seq_end bigint;
