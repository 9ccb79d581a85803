-- What people look at: news for open pages, where a build's time went, what to tell whom.

-- News, in order: a page that comes back asks for what it has missed. Written by triggers,
-- so that whoever changes a build has told it. `kind`: queued, state, progress, removed.
CREATE TABLE events (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    build         INTEGER NOT NULL,
    repository_id INTEGER NOT NULL,
    kind          TEXT    NOT NULL,
    state         TEXT    NOT NULL             -- the build's, at that moment
) STRICT;
CREATE TRIGGER events_queued AFTER INSERT ON builds BEGIN
    INSERT INTO events (build, repository_id, kind, state)
    VALUES (new.number, new.repository_id, 'queued', new.state);
END;
CREATE TRIGGER events_state AFTER UPDATE OF state ON builds BEGIN
    INSERT INTO events (build, repository_id, kind, state)
    VALUES (new.number, new.repository_id, 'state', new.state);
END;
CREATE TRIGGER events_progress AFTER UPDATE OF summary ON builds BEGIN
    INSERT INTO events (build, repository_id, kind, state)
    VALUES (new.number, new.repository_id, 'progress', new.state);
END;
CREATE TRIGGER events_removed AFTER DELETE ON builds BEGIN
    INSERT INTO events (build, repository_id, kind, state)
    VALUES (old.number, old.repository_id, 'removed', old.state);
END;
-- Two thousand are enough for who slept over a restart; whoever missed more begins anew.
CREATE TRIGGER events_bounded AFTER INSERT ON events WHEN new.id % 200 = 0 BEGIN
    DELETE FROM events WHERE id <= new.id - 2000;
END;

-- Where the time of an attempt went: JSON list of [what, began at in milliseconds].
ALTER TABLE attempts ADD COLUMN steps TEXT NOT NULL DEFAULT '[]';
-- How many derivations it built here, how many paths came from caches; null: not known.
ALTER TABLE attempts ADD COLUMN built INTEGER;
ALTER TABLE attempts ADD COLUMN substituted INTEGER;
-- Bytes of the store's file system in use when it ended; null: not looked.
ALTER TABLE attempts ADD COLUMN store_used INTEGER;

-- JSON list of derivations of the same attempt that had to be there first.
ALTER TABLE derivations ADD COLUMN needs TEXT NOT NULL DEFAULT '[]';
-- Whether the daemon said that it failed.
ALTER TABLE derivations ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;

-- What was told last of each branch, and of the service itself (repository 0).
CREATE TABLE told (
    repository_id INTEGER NOT NULL,
    branch        TEXT    NOT NULL,            -- or the name of a check
    state         TEXT    NOT NULL,            -- good, broken
    build         INTEGER,
    since         INTEGER NOT NULL,
    PRIMARY KEY (repository_id, branch)
) STRICT, WITHOUT ROWID;

-- When the inputs of a repository's flake were last asked for, and what came of it.
CREATE TABLE updates (
    repository_id INTEGER PRIMARY KEY REFERENCES repositories (id),
    asked_at      INTEGER NOT NULL,
    failures      INTEGER NOT NULL,            -- in a row, up to now
    error         TEXT    NOT NULL             -- of the last try; empty: it was good
) STRICT;
CREATE INDEX builds_update ON builds (repository_id, number) WHERE cause = 'update';

-- Messages for people, until they are sent or given up. `reached`: JSON list of short
-- digests of the addresses that have it already.
CREATE TABLE notices (
    id          INTEGER PRIMARY KEY,
    repository_id INTEGER NOT NULL,            -- whom it is about, as in `told`
    branch      TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('broken', 'fixed', 'trouble', 'well')),
    title       TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    queued_at   INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    sent_at     INTEGER,
    reached     TEXT    NOT NULL DEFAULT '[]',
    error       TEXT    NOT NULL DEFAULT ''    -- of the last try
) STRICT;
CREATE INDEX notices_open ON notices (next_try_at) WHERE sent_at IS NULL;

-- How long a build waited before its first attempt since it was queued last, milliseconds;
-- null: none began, or it is older than this column and its attempts are not known.
ALTER TABLE builds ADD COLUMN waited INTEGER;
-- What its attempts built and got from caches, all together.
ALTER TABLE builds ADD COLUMN built INTEGER NOT NULL DEFAULT 0;
ALTER TABLE builds ADD COLUMN substituted INTEGER NOT NULL DEFAULT 0;
UPDATE builds SET waited = (SELECT min(a.started_at) - builds.queued_at FROM attempts a
    WHERE a.build = builds.number AND a.started_at >= builds.queued_at);
CREATE TRIGGER builds_waited AFTER INSERT ON attempts BEGIN
    UPDATE builds SET waited = new.started_at - queued_at
        WHERE number = new.build AND waited IS NULL AND new.started_at >= queued_at;
END;
CREATE TRIGGER builds_wait_anew AFTER UPDATE OF queued_at ON builds BEGIN
    UPDATE builds SET waited = NULL WHERE number = new.number;
END;
CREATE TRIGGER builds_measured AFTER UPDATE OF built, substituted ON attempts
WHEN old.built IS NOT new.built OR old.substituted IS NOT new.substituted BEGIN
    UPDATE builds SET
        built = built + coalesce(new.built, 0) - coalesce(old.built, 0),
        substituted = substituted + coalesce(new.substituted, 0)
            - coalesce(old.substituted, 0)
        WHERE number = new.build;
END;

-- What ended on each day, counted as it happens: for each branch that a build is on and, with
-- branch '', for all; of its repository and, as repository 0, of all repositories. So the
-- numbers of a quarter year are a few thousand rows.
CREATE TABLE days (
    repository_id INTEGER NOT NULL,
    branch        TEXT    NOT NULL,
    kind          TEXT    NOT NULL,            -- as in the view below
    day           INTEGER NOT NULL,            -- since the epoch, UTC
    value         INTEGER NOT NULL,
    n             INTEGER NOT NULL,
    PRIMARY KEY (repository_id, branch, kind, day, value)
) STRICT, WITHOUT ROWID;

-- What one ended build adds to its day. A state counts it. `took` (of a good one) and `waited`
-- count it at so many tenths of a second, rounded down to steps of at most a tenth of the
-- value; `built` and `substituted` are sums.
CREATE VIEW build_days AS
SELECT build, repository_id, kind, day,
    tenths - tenths % CASE
        WHEN tenths < 20 THEN 1 WHEN tenths < 50 THEN 2 WHEN tenths < 100 THEN 5
        WHEN tenths < 200 THEN 10 WHEN tenths < 500 THEN 20 WHEN tenths < 1000 THEN 50
        WHEN tenths < 2000 THEN 100 WHEN tenths < 5000 THEN 200
        WHEN tenths < 10000 THEN 500 WHEN tenths < 20000 THEN 1000
        WHEN tenths < 50000 THEN 2000 WHEN tenths < 100000 THEN 5000
        ELSE 10000 END AS value, n
FROM (
    SELECT b.number AS build, b.repository_id * k.own AS repository_id,
        b.finished_at / 86400000 AS day,
        CASE k.kind WHEN 'state' THEN b.state ELSE k.kind END AS kind,
        CASE k.kind WHEN 'took' THEN CAST(max(b.seconds, 0) * 10 AS INTEGER)
            WHEN 'waited' THEN max(b.waited, 0) / 100 ELSE 0 END AS tenths,
        CASE k.kind WHEN 'state' THEN 1
            WHEN 'took' THEN b.state = 'succeeded' AND b.seconds IS NOT NULL
            WHEN 'waited' THEN b.waited IS NOT NULL
            WHEN 'built' THEN b.built ELSE b.substituted END AS n
    FROM builds b CROSS JOIN (
        SELECT 'state' AS kind, 0 AS own UNION ALL SELECT 'state', 1
        UNION ALL SELECT 'took', 0 UNION ALL SELECT 'took', 1
        UNION ALL SELECT 'waited', 0 UNION ALL SELECT 'waited', 1
        UNION ALL SELECT 'built', 0 UNION ALL SELECT 'built', 1
        UNION ALL SELECT 'substituted', 0 UNION ALL SELECT 'substituted', 1) k
    WHERE b.finished_at IS NOT NULL AND b.state NOT IN ('queued', 'running')
) WHERE n <> 0;

INSERT INTO days SELECT repository_id, '', kind, day, value, sum(n) FROM build_days
    WHERE repository_id <> 0 GROUP BY repository_id, kind, day, value;
INSERT INTO days SELECT d.repository_id, c.branch, d.kind, d.day, d.value, sum(d.n)
    FROM build_days d CROSS JOIN branch_commits c ON c.build = d.build
    WHERE d.repository_id <> 0
    GROUP BY d.repository_id, c.branch, d.kind, d.day, d.value;
INSERT INTO days SELECT 0, branch, kind, day, value, sum(n) FROM days
    GROUP BY branch, kind, day, value;

-- Before a build changes it is taken from its day, afterwards it is added to what is its day
-- then.
CREATE TRIGGER days_leave BEFORE UPDATE OF state, finished_at, seconds, waited, built,
    substituted ON builds WHEN old.finished_at IS NOT NULL BEGIN
    INSERT INTO days SELECT repository_id, '', kind, day, value, -n FROM build_days
        WHERE build = old.number ON CONFLICT DO UPDATE SET n = n + excluded.n;
    INSERT INTO days SELECT d.repository_id, c.branch, d.kind, d.day, d.value, -d.n
        FROM branch_commits c CROSS JOIN build_days d
        WHERE c.build = old.number AND d.build = old.number
        ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER days_come AFTER UPDATE OF state, finished_at, seconds, waited, built,
    substituted ON builds WHEN new.finished_at IS NOT NULL BEGIN
    INSERT INTO days SELECT repository_id, '', kind, day, value, n FROM build_days
        WHERE build = new.number ON CONFLICT DO UPDATE SET n = n + excluded.n;
    INSERT INTO days SELECT d.repository_id, c.branch, d.kind, d.day, d.value, d.n
        FROM branch_commits c CROSS JOIN build_days d
        WHERE c.build = new.number AND d.build = new.number
        ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER days_forget BEFORE DELETE ON builds WHEN old.finished_at IS NOT NULL BEGIN
    INSERT INTO days SELECT repository_id, '', kind, day, value, -n FROM build_days
        WHERE build = old.number ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER days_on_branch AFTER INSERT ON branch_commits
WHEN (SELECT finished_at FROM builds WHERE number = new.build) IS NOT NULL BEGIN
    INSERT INTO days SELECT repository_id, new.branch, kind, day, value, n
        FROM build_days WHERE build = new.build
        ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER days_off_branch BEFORE DELETE ON branch_commits
WHEN (SELECT finished_at FROM builds WHERE number = old.build) IS NOT NULL BEGIN
    INSERT INTO days SELECT repository_id, old.branch, kind, day, value, -n
        FROM build_days WHERE build = old.build
        ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER days_empty AFTER UPDATE OF n ON days WHEN new.n = 0 BEGIN
    DELETE FROM days WHERE repository_id = new.repository_id AND branch = new.branch
        AND kind = new.kind AND day = new.day AND value = new.value;
END;
