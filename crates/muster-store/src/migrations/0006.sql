-- What machines say that they believe and can do: for previews, and to see who was cut off from newer documents. The
-- digest is that of the body, so that machines that say the same are counted together.
CREATE TABLE agent_trust (
    agent BIGINT NOT NULL PRIMARY KEY,
    digest BYTEA NOT NULL,
    at BIGINT NOT NULL,
    body TEXT NOT NULL
);
