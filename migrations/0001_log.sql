-- The catalog: logs, lanes, tail, manifest and what belongs to them. Words as in ARCHITECTURE.md.

CREATE TABLE pitr.logs (
    log_id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name              text   NOT NULL UNIQUE,
    uid               text   NOT NULL UNIQUE,
    created_us        bigint NOT NULL,
    seq_next          bigint NOT NULL DEFAULT 1 CHECK (seq_next >= 1),
    manifest_version  bigint NOT NULL DEFAULT 0,
    manifest_hash     text   NOT NULL,
    published_version bigint NOT NULL DEFAULT 0 CHECK (published_version <= manifest_version),
    clamped_count     bigint NOT NULL DEFAULT 0
);

-- Where capture stands in each lane. Moved only by compare-and-set, in the transaction that stores
-- the changes. complete_us is null for lanes that are pushed to us: they never hold the log back.
CREATE TABLE pitr.lanes (
    log_id       integer NOT NULL REFERENCES pitr.logs,
    lane         text    NOT NULL,
    position     bigint  NOT NULL,
    at_us        bigint  NOT NULL,
    change_count bigint  NOT NULL DEFAULT 0,
    recorded_us  bigint  NOT NULL,
    complete_us  bigint,
    state        jsonb   NOT NULL DEFAULT '{}',
    PRIMARY KEY (log_id, lane)
);

CREATE TABLE pitr.tail (
    log_id      integer NOT NULL REFERENCES pitr.logs,
    seq         bigint  NOT NULL,
    collection  text    NOT NULL,
    key         text    NOT NULL,
    op          text    NOT NULL
                CHECK (op IN ('create', 'update', 'patch', 'delete', 'truncate', 'read')),
    after       text,
    before      text,
    unchanged   text,
    at_us       bigint  NOT NULL,
    commit_us   bigint  NOT NULL,
    recorded_us bigint  NOT NULL,
    lane        text    NOT NULL,
    position    bigint  NOT NULL,
    tx          text,
    actor       text,
    reason      text,
    meta        text,
    PRIMARY KEY (log_id, seq)
);

-- The history of one row. By hash: keys may be longer than an index entry.
CREATE INDEX tail_row ON pitr.tail (log_id, hashtextextended(key, 0), seq);

CREATE TABLE pitr.manifest (
    log_id      integer NOT NULL REFERENCES pitr.logs,
    version     bigint  NOT NULL CHECK (version >= 1),
    body        bytea   NOT NULL,
    hash        text    NOT NULL,
    recorded_us bigint  NOT NULL,
    PRIMARY KEY (log_id, version)
);

CREATE TABLE pitr.objects (
    log_id     integer NOT NULL REFERENCES pitr.logs,
    name       text    NOT NULL,
    kind       text    NOT NULL CHECK (kind IN ('segment', 'snapshot')),
    seq_first  bigint  NOT NULL,
    seq_end    bigint  NOT NULL CHECK (seq_end > seq_first),
    ref        jsonb   NOT NULL,
    retired_us bigint,
    PRIMARY KEY (log_id, name)
);

CREATE INDEX objects_live ON pitr.objects (log_id, seq_first) WHERE retired_us IS NULL;

-- One row for every transaction seen lately, and for ever for those that came in several appends
-- (parts > 1): only these can be torn by a target between their parts.
CREATE TABLE pitr.transactions (
    log_id    integer NOT NULL REFERENCES pitr.logs,
    tx        text    NOT NULL,
    seq_first bigint  NOT NULL,
    seq_last  bigint  NOT NULL,
    at_min_us bigint  NOT NULL,
    at_max_us bigint  NOT NULL,
    parts     integer NOT NULL DEFAULT 1
);

CREATE UNIQUE INDEX transactions_tx ON pitr.transactions (log_id, md5(tx));
CREATE INDEX transactions_parts ON pitr.transactions (log_id, seq_last) WHERE parts > 1;
CREATE INDEX transactions_recent ON pitr.transactions (log_id, seq_last) WHERE parts = 1;

CREATE TABLE pitr.marks (
    log_id     integer NOT NULL REFERENCES pitr.logs,
    name       text    NOT NULL,
    seq_end    bigint  NOT NULL,
    at_us      bigint,
    created_us bigint  NOT NULL,
    actor      text,
    reason     text,
    PRIMARY KEY (log_id, name)
);

CREATE TABLE pitr.gaps (
    gap_id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id         integer NOT NULL REFERENCES pitr.logs,
    lane           text    NOT NULL,
    position_first bigint,
    position_end   bigint,
    at_min_us      bigint,
    at_max_us      bigint,
    seq_end        bigint  NOT NULL,
    reason         text    NOT NULL,
    recorded_us    bigint  NOT NULL
);

CREATE TABLE pitr.quarantine (
    quarantine_id bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id        integer NOT NULL REFERENCES pitr.logs,
    lane          text    NOT NULL,
    position      bigint  NOT NULL,
    body          bytea   NOT NULL,
    format        text    NOT NULL,
    code          text    NOT NULL,
    reason        text    NOT NULL,
    recorded_us   bigint  NOT NULL,
    status        text    NOT NULL DEFAULT 'waiting'
                  CHECK (status IN ('waiting', 'replayed', 'dismissed')),
    resolved_us   bigint,
    UNIQUE (log_id, lane, position)
);

CREATE TABLE pitr.operations (
    operation_id text    PRIMARY KEY,
    log_id       integer NOT NULL REFERENCES pitr.logs,
    kind         text    NOT NULL,
    actor        text,
    reason       text,
    outcome      text    NOT NULL DEFAULT 'running'
                 CHECK (outcome IN ('running', 'done', 'failed')),
    started_us   bigint  NOT NULL,
    ended_us     bigint,
    detail       jsonb   NOT NULL DEFAULT '{}'
);

CREATE INDEX operations_by_time ON pitr.operations (log_id, started_us);

CREATE TABLE pitr.idempotency (
    log_id      integer NOT NULL REFERENCES pitr.logs,
    key         text    NOT NULL,
    body_sha256 text    NOT NULL,
    answer      jsonb   NOT NULL,
    recorded_us bigint  NOT NULL,
    PRIMARY KEY (log_id, key)
);

CREATE INDEX idempotency_age ON pitr.idempotency (recorded_us);

-- The log is append-only. Only the sealer may delete from the tail, what it has just made durable in
-- a segment, and says so for its own transaction. Nobody updates, and the manifest is never cut.
CREATE FUNCTION pitr.refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'tail'
       AND current_setting('pitr.sealer', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the log is append-only: % of pitr.% is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pitr.tail
    FOR EACH STATEMENT EXECUTE FUNCTION pitr.refuse_rewrite();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pitr.manifest
    FOR EACH STATEMENT EXECUTE FUNCTION pitr.refuse_rewrite();
