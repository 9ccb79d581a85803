-- The history of everything this server was told and did.
-- Times are milliseconds since the Unix epoch, UTC. Logs are files, never rows.

CREATE TABLE instances (
    id          INTEGER PRIMARY KEY,
    boot_id     TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    pid_start   INTEGER NOT NULL,              -- clock ticks since boot, /proc/PID/stat field 22
    started_at  INTEGER NOT NULL,
    stopped_at  INTEGER                        -- null: it never said good-bye
) STRICT;

CREATE TABLE repositories (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,       -- as configured
    github_id   INTEGER UNIQUE,                -- GitHub's number: survives a rename
    github_name TEXT                           -- what GitHub calls it now, for API paths
) STRICT;

CREATE TABLE deliveries (
    id            INTEGER PRIMARY KEY,
    hook_id       TEXT    NOT NULL,
    guid          TEXT    NOT NULL,
    event         TEXT    NOT NULL,
    received_at   INTEGER NOT NULL,
    body_sha256   TEXT    NOT NULL,
    repository_id INTEGER REFERENCES repositories (id),
    ref           TEXT,
    before_sha    TEXT,
    after_sha     TEXT,
    forced        INTEGER NOT NULL DEFAULT 0,
    accepted      INTEGER NOT NULL,
    reason        TEXT    NOT NULL DEFAULT '', -- why it was ignored
    UNIQUE (hook_id, guid)
) STRICT;
CREATE INDEX deliveries_chain ON deliveries (repository_id, ref, before_sha);
CREATE INDEX deliveries_forced ON deliveries (repository_id, ref, received_at)
    WHERE forced = 1;

CREATE TABLE builds (
    number            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id     INTEGER NOT NULL REFERENCES repositories (id),
    sha               TEXT    NOT NULL,
    branch            TEXT,                    -- where it was first seen; null: asked for by SHA
    title             TEXT    NOT NULL,
    author            TEXT    NOT NULL,
    state             TEXT    NOT NULL CHECK (state IN
        ('queued', 'running', 'succeeded', 'failed', 'error', 'cancelled', 'skipped')),
    cause             TEXT    NOT NULL,
    delivery_id       INTEGER REFERENCES deliveries (id),
    requested_targets TEXT    NOT NULL DEFAULT '[]', -- JSON list; empty: the configured ones
    head              INTEGER NOT NULL DEFAULT 0,    -- head of a push: built before older commits
    attempt           INTEGER NOT NULL DEFAULT 0,    -- tries begun
    counted           INTEGER NOT NULL DEFAULT 0,    -- tries that ended by our own fault
    deaths            INTEGER NOT NULL DEFAULT 0,    -- times the server died during it
    queued_at         INTEGER NOT NULL,
    not_before        INTEGER NOT NULL DEFAULT 0,    -- a retry waits until then
    started_at        INTEGER,
    finished_at       INTEGER,
    seconds           REAL,
    summary           TEXT    NOT NULL DEFAULT '',
    UNIQUE (repository_id, sha)
) STRICT;
CREATE INDEX builds_state ON builds (state, number);
CREATE INDEX builds_state_of ON builds (state, repository_id, number);
CREATE INDEX builds_repository ON builds (repository_id, number);
CREATE INDEX builds_retry ON builds (not_before)
    WHERE state = 'queued' AND not_before > 0;

-- Branch order: a higher position is a newer commit of that branch.
CREATE TABLE branch_commits (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    branch        TEXT    NOT NULL,
    position      INTEGER NOT NULL,
    build         INTEGER NOT NULL REFERENCES builds (number),
    PRIMARY KEY (repository_id, branch, build)
) STRICT, WITHOUT ROWID;
CREATE INDEX branch_commits_order ON branch_commits (repository_id, branch, position);
CREATE INDEX branch_commits_build ON branch_commits (build);
CREATE INDEX branch_commits_branch ON branch_commits (branch, build);

CREATE TABLE attempts (
    build       INTEGER NOT NULL REFERENCES builds (number),
    number      INTEGER NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id),
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    seconds     REAL,
    outcome     TEXT,
    reason      TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE targets (
    build      INTEGER NOT NULL REFERENCES builds (number),
    name       TEXT    NOT NULL,
    position   INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    seconds    REAL,
    error      TEXT,
    derivation TEXT,
    outputs    TEXT    NOT NULL DEFAULT '{}', -- JSON: output name to store path
    PRIMARY KEY (build, name)
) STRICT, WITHOUT ROWID;

-- When each derivation held a builder: the timeline.
CREATE TABLE derivations (
    build      INTEGER NOT NULL REFERENCES builds (number),
    attempt    INTEGER NOT NULL,
    path       TEXT    NOT NULL,
    machine    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    stopped_at INTEGER,
    PRIMARY KEY (build, attempt, path, machine)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    id          INTEGER PRIMARY KEY,
    kind        TEXT    NOT NULL CHECK (kind IN ('trigger', 'cancel', 'retry')),
    asked_at    INTEGER NOT NULL,
    asked_by    TEXT    NOT NULL,
    build       INTEGER REFERENCES builds (number),
    body        TEXT    NOT NULL DEFAULT '{}', -- JSON: repo, ref, rev, targets, force
    answered_at INTEGER,
    answer      TEXT                           -- JSON: status, message, build
) STRICT;
CREATE INDEX requests_open ON requests (kind, id) WHERE answered_at IS NULL;

CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY,
    build       INTEGER NOT NULL REFERENCES builds (number),
    sha         TEXT    NOT NULL,
    context     TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'success', 'failure', 'error')),
    target      TEXT,                          -- the failing target, for its own context
    head        INTEGER NOT NULL,              -- heads of branches go first
    queued_at   INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    sent_at     INTEGER,
    dead        INTEGER NOT NULL DEFAULT 0,    -- GitHub's final no: kept, never tried again
    error       TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX outbox_open ON outbox (next_try_at) WHERE sent_at IS NULL AND dead = 0;
-- In the order in which they are sent.
CREATE INDEX outbox_next ON outbox (state = 'pending', target IS NOT NULL, head DESC, id)
    WHERE sent_at IS NULL AND dead = 0;
CREATE INDEX outbox_build ON outbox (build);
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX outbox_dead ON outbox (id) WHERE dead = 1;

-- Counted as they happen, so that no page counts a million rows.
CREATE TABLE build_counts (
    repository_id INTEGER NOT NULL,
    state         TEXT    NOT NULL,
    n             INTEGER NOT NULL,
    PRIMARY KEY (repository_id, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER builds_counted_in AFTER INSERT ON builds BEGIN
    INSERT INTO build_counts VALUES (new.repository_id, new.state, 1)
    ON CONFLICT (repository_id, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER builds_counted_over AFTER UPDATE OF state ON builds
WHEN old.state <> new.state BEGIN
    UPDATE build_counts SET n = n - 1
        WHERE repository_id = old.repository_id AND state = old.state;
    INSERT INTO build_counts VALUES (new.repository_id, new.state, 1)
    ON CONFLICT (repository_id, state) DO UPDATE SET n = n + 1;
END;
