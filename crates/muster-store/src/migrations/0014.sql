-- How many commands there were when the share began that is under way.
ALTER TABLE action_jobs ADD COLUMN ring_sent BIGINT NOT NULL DEFAULT 0;
