-- Leases: what an operation under way reads and where it writes, so that others keep off.

CREATE TABLE pitr.leases (
    operation_id     text    PRIMARY KEY,
    log_id           integer NOT NULL REFERENCES pitr.logs,
    kind             text    NOT NULL,
    actor            text,
    holder           text    NOT NULL, -- the process, as adapters/owner.py names it
    sink             text,             -- the place that it writes to; null where it only reads
    manifest_version bigint  NOT NULL, -- of the view that it reads
    taken_us         bigint  NOT NULL, -- by the clock of this database, as is until_us
    until_us         bigint  NOT NULL
);

-- One lease a place, of whatever log. By hash: paths may be longer than an index entry.
CREATE UNIQUE INDEX leases_sink ON pitr.leases (md5(sink));
CREATE INDEX leases_log ON pitr.leases (log_id);

-- The manifest entry that retired an object: views of earlier versions hold it. Null if that was
-- before there were leases, or by an earlier pitr.
ALTER TABLE pitr.objects
    ADD COLUMN retired_version bigint;

-- Views of earlier versions may hold objects whose bytes are gone: no lease is given for them.
ALTER TABLE pitr.logs
    ADD COLUMN expired_version bigint NOT NULL DEFAULT 0;
