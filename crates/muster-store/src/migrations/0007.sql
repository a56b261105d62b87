-- Signed tokens that investigators have shown, until no server would believe them any more: each is believed once, whichever
-- server it was shown to. The digest is that of the signer and the signed text.
CREATE TABLE used_tokens (
    digest BYTEA NOT NULL PRIMARY KEY,
    expires BIGINT NOT NULL
);
CREATE INDEX used_tokens_expires ON used_tokens (expires);

-- Searches list actions by their windows.
CREATE INDEX action_rows_valid_from ON action_rows (valid_from, number);
