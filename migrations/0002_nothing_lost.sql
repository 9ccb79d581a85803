-- What finds pushes that nobody told of, and keeps what is precious when the rest goes.

-- The head of each watched branch as the remote last told it.
CREATE TABLE watched_branches (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    branch        TEXT    NOT NULL,
    sha           TEXT    NOT NULL,            -- forty zeros once it was deleted
    seen_at       INTEGER NOT NULL,            -- when this head was first seen there
    checked_at    INTEGER NOT NULL,            -- when the remote was last asked
    etag          TEXT    NOT NULL DEFAULT '', -- GitHub's, for a conditional request
    unannounced   INTEGER NOT NULL DEFAULT 0,  -- found by looking, while webhooks were due
    PRIMARY KEY (repository_id, branch)
) STRICT, WITHOUT ROWID;

-- Deliveries that GitHub made and this server never saw, and what became of them.
CREATE TABLE missed_deliveries (
    hook_id       TEXT    NOT NULL,
    guid          TEXT    NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    delivered_at  INTEGER NOT NULL,            -- GitHub's time of the first try
    found_at      INTEGER NOT NULL,
    asked_at      INTEGER,                     -- when GitHub agreed to deliver it again
    recovered_at  INTEGER,                     -- when it came
    PRIMARY KEY (hook_id, guid)
) STRICT, WITHOUT ROWID;

-- Builds whose results and logs are kept until somebody lets go of them.
CREATE TABLE pins (
    build     INTEGER PRIMARY KEY REFERENCES builds (number),
    pinned_at INTEGER NOT NULL,
    pinned_by TEXT    NOT NULL
) STRICT;

-- What each attempt's log takes, so that nobody walks the files to know.
ALTER TABLE attempts ADD COLUMN log_size INTEGER;    -- bytes; null: not measured yet
ALTER TABLE attempts ADD COLUMN log_removed TEXT;    -- when and why, for people
CREATE INDEX attempts_unmeasured ON attempts (build, number)
    WHERE log_size IS NULL AND finished_at IS NOT NULL;
CREATE INDEX attempts_logs ON attempts (finished_at, log_size) WHERE log_size > 0;
CREATE INDEX attempts_instance ON attempts (instance_id);

-- Builds whose rows have gone, while files of theirs may still lie about.
CREATE TABLE removed_builds (
    number        INTEGER PRIMARY KEY,
    repository_id INTEGER NOT NULL
) STRICT;
CREATE INDEX builds_finished ON builds (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX requests_build ON requests (build) WHERE build IS NOT NULL;
CREATE TRIGGER builds_counted_out AFTER DELETE ON builds BEGIN
    UPDATE build_counts SET n = n - 1
        WHERE repository_id = old.repository_id AND state = old.state;
END;

-- When a repository was last seen in the configuration.
ALTER TABLE repositories ADD COLUMN configured_at INTEGER;

CREATE INDEX deliveries_received ON deliveries (received_at);
CREATE INDEX builds_delivery ON builds (delivery_id) WHERE delivery_id IS NOT NULL;
CREATE INDEX requests_answered ON requests (answered_at) WHERE answered_at IS NOT NULL;

-- The same table with its key in front. SQLite 3.40's own check (Debian 12) takes the
-- column that stood between the columns of the key for NULL, and so the file for damaged.
CREATE TABLE keyed_branch_commits (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    branch        TEXT    NOT NULL,
    build         INTEGER NOT NULL REFERENCES builds (number),
    position      INTEGER NOT NULL,
    PRIMARY KEY (repository_id, branch, build)
) STRICT, WITHOUT ROWID;
INSERT INTO keyed_branch_commits (repository_id, branch, build, position)
    SELECT repository_id, branch, build, position FROM branch_commits;
DROP TABLE branch_commits;
ALTER TABLE keyed_branch_commits RENAME TO branch_commits;
CREATE INDEX branch_commits_order ON branch_commits (repository_id, branch, position);
CREATE INDEX branch_commits_build ON branch_commits (build);
CREATE INDEX branch_commits_branch ON branch_commits (branch, build);
