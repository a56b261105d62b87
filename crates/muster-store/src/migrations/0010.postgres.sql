-- What PostgreSQL writes in its own way, of the tenth schema. An environment is kept parsed too: targets look into it
-- without reading JSON anew for every machine.
ALTER TABLE machine_environments ADD COLUMN parsed JSONB NOT NULL GENERATED ALWAYS AS (environment::JSONB) STORED;
