-- What a signed token of MIG's API was used for: the same reading again, by another program that was started within the
-- same second, is no replay.
ALTER TABLE used_tokens ADD COLUMN request BYTEA;

-- How the fleet stood is told under MIG's name and in MIG's form by a view.
ALTER TABLE agents_stats RENAME TO fleet_counts;
