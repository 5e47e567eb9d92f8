-- The first schema. Times are microseconds since the Unix epoch; lists and maps are JSON.
-- `epoch`, `n` and `tag` of a record are the change that made it what it is; the 64 bits of an epoch
-- and of a tag are kept as SQLite's signed integer. `format` is that of the record, `version` how
-- often it was changed. Nothing is ever deleted, save for requests that nobody repeats any more.

PRAGMA application_id = 0x6c6b6579; -- "lkey"

-- Whom keys belong to.
CREATE TABLE accounts (
    id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    format         INTEGER NOT NULL CHECK (format >= 1),
    version        INTEGER NOT NULL CHECK (version >= 1),
    epoch          INTEGER NOT NULL,
    n              INTEGER NOT NULL CHECK (n >= 1),
    tag            INTEGER NOT NULL,
    display_name   TEXT    NOT NULL,
    plan           TEXT    NOT NULL,
    suspended      INTEGER NOT NULL CHECK (suspended IN (0, 1)),
    suspend_reason TEXT    NOT NULL,
    labels         TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL CHECK (update_time >= create_time),
    CHECK (id <> 'latchkey' OR suspended = 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX accounts_by_plan ON accounts (plan, id);

-- The records behind the tokens. Of a token there is the digest, and a hint for people.
-- `class` repeats what the scopes say, so that keys can be counted by it.
CREATE TABLE keys (
    id               TEXT    NOT NULL PRIMARY KEY CHECK (id GLOB 'key_*' AND length(id) = 30),
    format           INTEGER NOT NULL CHECK (format >= 1),
    version          INTEGER NOT NULL CHECK (version >= 1),
    epoch            INTEGER NOT NULL,
    n                INTEGER NOT NULL CHECK (n >= 1),
    tag              INTEGER NOT NULL,
    account_id       TEXT    NOT NULL REFERENCES accounts (id),
    display_name     TEXT    NOT NULL,
    environment      TEXT    NOT NULL CHECK (environment IN ('live', 'test')),
    class            TEXT    NOT NULL CHECK (class IN ('data', 'operator')),
    scopes           TEXT    NOT NULL CHECK (json_type(scopes) = 'array'),
    grantable_scopes TEXT    NOT NULL CHECK (json_type(grantable_scopes) = 'array'),
    digest           BLOB    NOT NULL CHECK (length(digest) = 32),
    digest_algorithm TEXT    NOT NULL CHECK (digest_algorithm = 'sha256'),
    hint             TEXT    NOT NULL,
    create_time      INTEGER NOT NULL,
    update_time      INTEGER NOT NULL CHECK (update_time >= create_time),
    expire_time      INTEGER,
    revoke_time      INTEGER,
    revoke_reason    TEXT CHECK (
        revoke_reason IN ('unspecified', 'compromised', 'superseded', 'unused', 'administrative')
    ),
    revoke_comment   TEXT,
    disabled         INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    allowed_cidrs    TEXT    NOT NULL CHECK (json_type(allowed_cidrs) = 'array'),
    labels           TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
    rotated_from     TEXT REFERENCES keys (id),
    rotated_to       TEXT REFERENCES keys (id),
    created_by       TEXT    NOT NULL CHECK (created_by GLOB 'key:*' OR created_by GLOB 'system:*'),
    CHECK ((revoke_time IS NULL) = (revoke_reason IS NULL)),
    CHECK ((revoke_time IS NULL) = (revoke_comment IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX keys_by_digest ON keys (digest);
CREATE INDEX keys_by_account ON keys (account_id, id);
CREATE INDEX keys_by_maker ON keys (created_by, id);
CREATE INDEX keys_by_hint ON keys (hint, id);
-- What counts against a plan, with the expiry and the successor in overlap left to the query.
CREATE INDEX keys_counted ON keys (account_id, class, expire_time) WHERE revoke_time IS NULL;

-- The policy: one row, the document as JSON.
CREATE TABLE policy (
    one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    format   INTEGER NOT NULL CHECK (format >= 1),
    version  INTEGER NOT NULL CHECK (version >= 1),
    epoch    INTEGER NOT NULL,
    n        INTEGER NOT NULL CHECK (n >= 1),
    tag      INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    document TEXT    NOT NULL CHECK (json_type(document) = 'object')
) STRICT;

-- Who changed what: one row for each change, of the same number. `change` holds the fields before
-- and after; a token or a digest is never among them.
CREATE TABLE audit (
    n          INTEGER NOT NULL PRIMARY KEY CHECK (n >= 1),
    at         INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    account_id TEXT,
    key_id     TEXT,
    change     TEXT    NOT NULL CHECK (json_type(change) = 'object'),
    peer       TEXT    NOT NULL,
    request_id TEXT
) STRICT;

CREATE INDEX audit_by_account ON audit (account_id, n);
CREATE INDEX audit_by_key ON audit (key_id, n);
CREATE INDEX audit_by_actor ON audit (actor, n);

-- Requests that must not be carried out twice, for two days. `content` is the SHA-256 of what was
-- asked; `key_id` is what a CreateKey or RotateKey made, and is absent for an account.
CREATE TABLE requests (
    account_id      TEXT    NOT NULL REFERENCES accounts (id),
    rpc             TEXT    NOT NULL,
    request_id      TEXT    NOT NULL,
    content         BLOB    NOT NULL CHECK (length(content) = 32),
    made_account_id TEXT    NOT NULL REFERENCES accounts (id),
    made_key_id     TEXT REFERENCES keys (id),
    at              INTEGER NOT NULL,
    PRIMARY KEY (account_id, rpc, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (at);

-- The feed: every change, gapless and in commit order. The subject is an id, or empty for the policy.
CREATE TABLE changes (
    n       INTEGER NOT NULL PRIMARY KEY CHECK (n >= 1),
    tag     INTEGER NOT NULL,
    kind    TEXT    NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    subject TEXT    NOT NULL,
    digest  BLOB CHECK (length(digest) = 32),
    at      INTEGER NOT NULL,
    CHECK ((kind = 'key') = (digest IS NOT NULL))
) STRICT;

-- The head of the feed, one row: the epoch, the last change and its time. `n` = 0 stands for the
-- empty store. `kept_time` is the highest time that was told and not written; `least_format` the
-- least record format that a program must know to open this store; `seeded` is the guard by which
-- the root key is made once; `mac_key` authenticates what is kept in Redis.
CREATE TABLE feed (
    one          INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    epoch        INTEGER NOT NULL,
    n            INTEGER NOT NULL CHECK (n >= 0),
    tag          INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    kept_time    INTEGER NOT NULL,
    mac_key      BLOB    NOT NULL CHECK (length(mac_key) = 32),
    least_format INTEGER NOT NULL,
    seeded       INTEGER NOT NULL CHECK (seeded IN (0, 1))
) STRICT;

INSERT INTO feed (one, epoch, n, tag, at, kept_time, mac_key, least_format, seeded)
VALUES (1, random(), 0, 0, 0, 0, randomblob(32), 1, 0);

-- What the program never does, and nobody should: these are the last to refuse.
CREATE TRIGGER keys_stay BEFORE DELETE ON keys
BEGIN SELECT RAISE(ABORT, 'keys are never deleted'); END;
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts
BEGIN SELECT RAISE(ABORT, 'accounts are never deleted'); END;
CREATE TRIGGER revocation_is_final BEFORE UPDATE ON keys WHEN OLD.revoke_time IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a revoked key is never changed'); END;
CREATE TRIGGER audit_is_not_rewritten BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is never rewritten'); END;
CREATE TRIGGER feed_goes_on BEFORE UPDATE OF n ON feed WHEN NEW.n <> OLD.n + 1
BEGIN SELECT RAISE(ABORT, 'changes are numbered without a gap'); END;
