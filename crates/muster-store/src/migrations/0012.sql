-- Messages that could not be accepted are counted by the service that they were addressed to.
ALTER TABLE dead_letters ADD COLUMN service TEXT NOT NULL DEFAULT '';
-- Which try of a message to a service ended without a result: when it is the last one, the message waits for its next try
-- and is in no server's memory.
ALTER TABLE messages ADD COLUMN tried BIGINT;
