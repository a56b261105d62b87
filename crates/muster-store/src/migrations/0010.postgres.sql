-- What PostgreSQL writes in its own way, of the tenth schema. An environment is kept parsed too: targets look into it
-- without reading JSON anew for every machine.
ALTER TABLE machine_environments ADD COLUMN parsed JSONB NOT NULL GENERATED ALWAYS AS (environment::JSONB) STORED;

-- People may write rows of investigators by hand: what is no fingerprint is refused here, and not by every server that
-- reads it. Rows that are there stay.
ALTER TABLE investigators ADD CONSTRAINT pgpfingerprint_is_40_or_64_hexadecimal_digits CHECK (
    upper(translate(pgpfingerprint, E' :\t', '')) ~ '^(0X)?([0-9A-F]{40}|[0-9A-F]{64})$') NOT VALID;
