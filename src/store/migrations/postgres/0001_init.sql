-- The first schema. Times are microseconds since the Unix epoch; lists and maps are JSON, kept as the text
-- that was written. `epoch`, `n` and `tag` of a record are the change that made it what it is; the 64 bits
-- of an epoch and of a tag are kept as a signed number. `format` is that of the record, `version` how often
-- it was changed. Nothing is ever deleted, save for requests that nobody repeats any more.
--
-- Text that is looked up by an index or put in order is compared by its bytes (COLLATE "C"): in the same
-- order everywhere, whatever the database's language is and however the system sorts after an upgrade.
--
-- CockroachDB and YugabyteDB speak all of it, functions in PL/pgSQL and their triggers included where they
-- are new enough (CockroachDB 24.3).

-- Whom keys belong to.
CREATE TABLE accounts (
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    format         BIGINT  NOT NULL CHECK (format >= 1),
    version        BIGINT  NOT NULL CHECK (version >= 1),
    epoch          BIGINT  NOT NULL,
    n              BIGINT  NOT NULL CHECK (n >= 1),
    tag            BIGINT  NOT NULL,
    display_name   TEXT    NOT NULL,
    plan           TEXT COLLATE "C" NOT NULL,
    suspended      BOOLEAN NOT NULL,
    suspend_reason TEXT    NOT NULL,
    labels         TEXT    NOT NULL CHECK (json_typeof(labels::json) = 'object'),
    create_time    BIGINT  NOT NULL,
    update_time    BIGINT  NOT NULL,
    CHECK (update_time >= create_time),
    CHECK (id <> 'latchkey' OR NOT suspended)
);

CREATE INDEX accounts_by_plan ON accounts (plan, id);

-- The records behind the tokens. Of a token there is the digest, and a hint for people.
-- `class` repeats what the scopes say, so that keys can be counted by it.
CREATE TABLE keys (
    id               TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (id LIKE 'key\_%' AND length(id) = 30),
    format           BIGINT  NOT NULL CHECK (format >= 1),
    version          BIGINT  NOT NULL CHECK (version >= 1),
    epoch            BIGINT  NOT NULL,
    n                BIGINT  NOT NULL CHECK (n >= 1),
    tag              BIGINT  NOT NULL,
    account_id       TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    display_name     TEXT    NOT NULL,
    environment      TEXT    NOT NULL CHECK (environment IN ('live', 'test')),
    class            TEXT COLLATE "C" NOT NULL CHECK (class IN ('data', 'operator')),
    scopes           TEXT    NOT NULL CHECK (json_typeof(scopes::json) = 'array'),
    grantable_scopes TEXT    NOT NULL CHECK (json_typeof(grantable_scopes::json) = 'array'),
    digest           BYTEA   NOT NULL CHECK (length(digest) = 32),
    digest_algorithm TEXT    NOT NULL CHECK (digest_algorithm = 'sha256'),
    hint             TEXT COLLATE "C" NOT NULL,
    create_time      BIGINT  NOT NULL,
    update_time      BIGINT  NOT NULL,
    expire_time      BIGINT,
    revoke_time      BIGINT,
    revoke_reason    TEXT CHECK (
        revoke_reason IN ('unspecified', 'compromised', 'superseded', 'unused', 'administrative')
    ),
    revoke_comment   TEXT,
    disabled         BOOLEAN NOT NULL,
    allowed_cidrs    TEXT    NOT NULL CHECK (json_typeof(allowed_cidrs::json) = 'array'),
    labels           TEXT    NOT NULL CHECK (json_typeof(labels::json) = 'object'),
    rotated_from     TEXT COLLATE "C" REFERENCES keys (id),
    rotated_to       TEXT COLLATE "C" REFERENCES keys (id),
    created_by       TEXT COLLATE "C" NOT NULL CHECK (created_by LIKE 'key:%' OR created_by LIKE 'system:%'),
    CHECK (update_time >= create_time),
    CHECK ((revoke_time IS NULL) = (revoke_reason IS NULL)),
    CHECK ((revoke_time IS NULL) = (revoke_comment IS NULL))
);

CREATE UNIQUE INDEX keys_by_digest ON keys (digest);
CREATE INDEX keys_by_account ON keys (account_id, id);
CREATE INDEX keys_by_maker ON keys (created_by, id);
CREATE INDEX keys_by_hint ON keys (hint, id);
-- What counts against a plan, with the expiry and the successor in overlap left to the query.
CREATE INDEX keys_counted ON keys (account_id, class, expire_time) WHERE revoke_time IS NULL;

-- The policy: one row, the document as JSON.
CREATE TABLE policy (
    one      BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    format   BIGINT NOT NULL CHECK (format >= 1),
    version  BIGINT NOT NULL CHECK (version >= 1),
    epoch    BIGINT NOT NULL,
    n        BIGINT NOT NULL CHECK (n >= 1),
    tag      BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    document TEXT   NOT NULL CHECK (json_typeof(document::json) = 'object')
);

-- Who changed what: one row for each change, of the same number. `change` holds the fields before
-- and after; a token or a digest is never among them.
CREATE TABLE audit (
    n          BIGINT NOT NULL PRIMARY KEY CHECK (n >= 1),
    at         BIGINT NOT NULL,
    actor      TEXT COLLATE "C" NOT NULL,
    action     TEXT   NOT NULL,
    account_id TEXT COLLATE "C",
    key_id     TEXT COLLATE "C",
    change     TEXT   NOT NULL CHECK (json_typeof(change::json) = 'object'),
    peer       TEXT   NOT NULL,
    request_id TEXT
);

CREATE INDEX audit_by_account ON audit (account_id, n);
CREATE INDEX audit_by_key ON audit (key_id, n);
CREATE INDEX audit_by_actor ON audit (actor, n);
-- Times rise with `n`, so that a span of time is a span of numbers: this finds where it begins.
CREATE INDEX audit_by_time ON audit (at, n);
-- Entries about accounts themselves, and those about the policy, which have no account.
CREATE INDEX audit_of_accounts ON audit (account_id, n) WHERE key_id IS NULL;

-- Requests that must not be carried out twice, for two days. `content` is the SHA-256 of what was
-- asked; `made_key_id` is what a CreateKey or RotateKey made, and is absent for an account.
CREATE TABLE requests (
    account_id      TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    rpc             TEXT COLLATE "C" NOT NULL,
    request_id      TEXT COLLATE "C" NOT NULL,
    content         BYTEA  NOT NULL CHECK (length(content) = 32),
    made_account_id TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    made_key_id     TEXT COLLATE "C" REFERENCES keys (id),
    at              BIGINT NOT NULL,
    PRIMARY KEY (account_id, rpc, request_id)
);

CREATE INDEX requests_by_time ON requests (at);

-- The feed: every change, gapless and in commit order. The subject is an id, or empty for the policy.
CREATE TABLE changes (
    n       BIGINT NOT NULL PRIMARY KEY CHECK (n >= 1),
    tag     BIGINT NOT NULL,
    kind    TEXT   NOT NULL CHECK (kind IN ('key', 'account', 'policy')),
    subject TEXT   NOT NULL,
    digest  BYTEA CHECK (length(digest) = 32),
    at      BIGINT NOT NULL,
    CHECK ((kind = 'key') = (digest IS NOT NULL))
);

-- The head of the feed, one row: the epoch, the last change and its time. `n` = 0 stands for the
-- empty store. `kept_time` is the highest time that was told and not written; `least_format` the
-- least record format that a program must know to use this store, `least_schema` the least step of the
-- schema; `seeded` is the guard by which the root key is made once; `mac_key` authenticates what is kept
-- in Redis, and what `mac_key_before` authenticated still counts. Whoever makes a change holds the lock of this row until it is committed. The row is made with
-- the schema, by the program: it holds random bits, of which PostgreSQL 12 has none that are good enough.
-- Much of its page is kept free, so that a row that changes all the time stays on it.
CREATE TABLE feed (
    one          BIGINT  NOT NULL PRIMARY KEY CHECK (one = 1),
    epoch        BIGINT  NOT NULL,
    n            BIGINT  NOT NULL CHECK (n >= 0),
    tag          BIGINT  NOT NULL,
    at           BIGINT  NOT NULL,
    kept_time    BIGINT  NOT NULL,
    mac_key      BYTEA   NOT NULL CHECK (length(mac_key) = 32),
    mac_key_before BYTEA CHECK (length(mac_key_before) = 32),
    least_format BIGINT  NOT NULL,
    least_schema BIGINT  NOT NULL,
    seeded       BOOLEAN NOT NULL
) WITH (fillfactor = 10);

-- The nodes that serve from this store, by what each said of itself last: the position that it had applied, and for
-- how long others have to reckon with it, in microseconds. `renewed` is by this server's clock. No history and no
-- guard: a node that leaves takes its row with it.
CREATE TABLE nodes (
    boot_id BIGINT NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL,
    version TEXT   NOT NULL,
    started BIGINT NOT NULL,
    epoch   BIGINT,
    n       BIGINT,
    tag     BIGINT,
    bound   BIGINT NOT NULL,
    grace   BIGINT NOT NULL,
    renewed BIGINT NOT NULL,
    CHECK ((epoch IS NULL) = (n IS NULL) AND (n IS NULL) = (tag IS NULL))
) WITH (fillfactor = 10);

-- What the program never does, and nobody should: these are the last to refuse. Whoever may drop them may
-- do anything.
CREATE FUNCTION latchkey_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END
$$;

CREATE TRIGGER keys_stay BEFORE DELETE ON keys
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('keys are never deleted');
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('accounts are never deleted');
CREATE TRIGGER revocation_is_final BEFORE UPDATE ON keys
FOR EACH ROW WHEN (OLD.revoke_time IS NOT NULL)
EXECUTE FUNCTION latchkey_refuses('a revoked key is never changed');
CREATE TRIGGER audit_is_not_rewritten BEFORE UPDATE ON audit
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('the audit trail is never rewritten');
CREATE TRIGGER audit_stays BEFORE DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('the audit trail is never deleted from');
CREATE TRIGGER changes_are_not_rewritten BEFORE UPDATE ON changes
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('changes are never rewritten');
CREATE TRIGGER changes_stay BEFORE DELETE ON changes
FOR EACH ROW EXECUTE FUNCTION latchkey_refuses('changes are never deleted');
CREATE TRIGGER feed_goes_on BEFORE UPDATE OF n ON feed
FOR EACH ROW WHEN (NEW.n <> OLD.n + 1)
EXECUTE FUNCTION latchkey_refuses('changes are numbered without a gap');

-- A table can be emptied without deleting a row.
CREATE TRIGGER keys_are_not_emptied BEFORE TRUNCATE ON keys
FOR EACH STATEMENT EXECUTE FUNCTION latchkey_refuses('keys are never deleted');
CREATE TRIGGER accounts_are_not_emptied BEFORE TRUNCATE ON accounts
FOR EACH STATEMENT EXECUTE FUNCTION latchkey_refuses('accounts are never deleted');
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION latchkey_refuses('the audit trail is never deleted from');
CREATE TRIGGER changes_are_not_emptied BEFORE TRUNCATE ON changes
FOR EACH STATEMENT EXECUTE FUNCTION latchkey_refuses('changes are never deleted');
