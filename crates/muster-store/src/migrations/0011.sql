-- Who is in and who is out: why a machine is in its state, by which machine id it is recognised under another key, from
-- which key it goes on under which, and that it said that it stops.
ALTER TABLE machines ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN state_at BIGINT;
ALTER TABLE machines ADD COLUMN state_note TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN rekey_demand BYTEA;
ALTER TABLE machines ADD COLUMN rekey_asked BIGINT;
ALTER TABLE machines ADD COLUMN predecessor BYTEA;
ALTER TABLE machines ADD COLUMN successor BYTEA;
ALTER TABLE machines ADD COLUMN left_at BIGINT;
UPDATE machines SET machine_id = COALESCE((SELECT substr(trim(value, '"'), 1, 128) FROM agent_facts
    WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'machine_id'), '');
-- When somebody blocked them is in the journal only; they were in contact until then.
UPDATE machines SET state_at = last_contact WHERE state = 2;
CREATE INDEX machines_machine_id ON machines (machine_id) WHERE machine_id <> '';
