-- What targets look at (docs/reference/targets.md): columns of the machine's row for what is asked often, so that one
-- scan of one table answers; the whole environment, which is long and rarely asked, beside it. All of them are written
-- in the transaction that stores the facts or labels they come from.

ALTER TABLE machines ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN queueloc TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN mode TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN pid BIGINT;
ALTER TABLE machines ADD COLUMN started BIGINT;
ALTER TABLE machines ADD COLUMN refreshed BIGINT;
ALTER TABLE machines ADD COLUMN destroyed BIGINT;
ALTER TABLE machines ADD COLUMN loader_name TEXT;
ALTER TABLE machines ADD COLUMN os TEXT;
ALTER TABLE machines ADD COLUMN arch TEXT;
ALTER TABLE machines ADD COLUMN ident TEXT;
ALTER TABLE machines ADD COLUMN init TEXT;
ALTER TABLE machines ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';

-- `machine` is the machine's number.
CREATE TABLE machine_environments (
    machine BIGINT NOT NULL PRIMARY KEY,
    environment TEXT NOT NULL
);

CREATE TABLE named_targets (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    expression TEXT NOT NULL,
    description TEXT NOT NULL,
    changed BIGINT NOT NULL,
    changed_by TEXT NOT NULL
);

-- Machines that are there already: what can be taken from their facts. The rest comes with their next facts and labels.
INSERT INTO machine_environments (machine, environment) SELECT number, '{}' FROM machines;
UPDATE machines SET
    name = COALESCE((SELECT trim(value, '"') FROM agent_facts
        WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'fqdn'), id_text),
    version = COALESCE((SELECT trim(value, '"') FROM agent_facts
        WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'agent_version'), ''),
    os = (SELECT lower(trim(value, '"')) FROM agent_facts
        WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'kernel'),
    ident = (SELECT trim(value, '"') FROM agent_facts
        WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'os_name'),
    arch = (SELECT CASE trim(value, '"') WHEN 'x86_64' THEN 'amd64' WHEN 'aarch64' THEN 'arm64' WHEN 'i686' THEN '386'
            ELSE trim(value, '"') END FROM agent_facts
        WHERE agent_facts.agent_id = machines.agent_id AND agent_facts.name = 'architecture');
UPDATE machines SET queueloc = COALESCE(os, 'agent') || '.' || id_text;
