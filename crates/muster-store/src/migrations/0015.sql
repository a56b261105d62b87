-- Signed cancellations of actions, one of each signer and fleet: none takes the place of another person's.
CREATE TABLE cancellations (
    action BIGINT NOT NULL REFERENCES action_rows (number),
    investigator BIGINT NOT NULL,
    fleet TEXT NOT NULL,
    made BIGINT NOT NULL,
    type_url TEXT NOT NULL,
    data BYTEA NOT NULL,
    replaced BYTEA,
    PRIMARY KEY (action, investigator, fleet)
);
-- Of those that came before it was not written down who signed: nobody has the number 0.
INSERT INTO cancellations (action, investigator, fleet, made, type_url, data)
    SELECT number, 0, '', 0, cancel_type_url, cancel_data FROM action_rows WHERE cancel_type_url <> '';
ALTER TABLE action_rows DROP COLUMN cancel_type_url;
ALTER TABLE action_rows DROP COLUMN cancel_data;
