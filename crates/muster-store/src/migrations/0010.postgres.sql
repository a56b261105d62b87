-- What PostgreSQL writes in its own way, of the tenth schema. An environment is kept parsed too: targets look into it
-- without reading JSON anew for every machine. Once parsed, lists are written differently than agents write them, so the
-- texts of those that people look through are kept by themselves.
ALTER TABLE machine_environments
    ADD COLUMN parsed JSONB NOT NULL GENERATED ALWAYS AS (environment::JSONB) STORED,
    ADD COLUMN addresses TEXT GENERATED ALWAYS AS (environment::JSON ->> 'addresses') STORED,
    ADD COLUMN modules TEXT GENERATED ALWAYS AS (environment::JSON ->> 'modules') STORED;

-- People may write rows of investigators by hand: what is no fingerprint is refused here, and not by every server that
-- reads it. Where one stands already, its person has no key from now on, until `muster investigator key` gives one.
UPDATE investigators SET pgpfingerprint = NULL
    WHERE upper(translate(pgpfingerprint, E' :\t', '')) !~ '^(0X)?([0-9A-F]{40}|[0-9A-F]{64})$';
ALTER TABLE investigators ADD CONSTRAINT pgpfingerprint_is_40_or_64_hexadecimal_digits CHECK (
    upper(translate(pgpfingerprint, E' :\t', '')) ~ '^(0X)?([0-9A-F]{40}|[0-9A-F]{64})$');
