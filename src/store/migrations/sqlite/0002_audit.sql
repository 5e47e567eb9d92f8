-- The audit trail is asked by time, and for what was done to accounts themselves and to the policy.

-- Times rise with `n`, so that a span of time is a span of numbers: this finds where it begins.
CREATE INDEX audit_by_time ON audit (at, n);
-- Entries about accounts themselves, and those about the policy, which have no account.
CREATE INDEX audit_of_accounts ON audit (account_id, n) WHERE key_id IS NULL;

-- Nobody deletes from the trail or from the feed either.
CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is never deleted from'); END;
CREATE TRIGGER changes_stay BEFORE DELETE ON changes
BEGIN SELECT RAISE(ABORT, 'changes are never deleted'); END;
CREATE TRIGGER changes_are_not_rewritten BEFORE UPDATE ON changes
BEGIN SELECT RAISE(ABORT, 'changes are never rewritten'); END;
