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
