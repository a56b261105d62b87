-- Messages are listed and swept in the order in which they came, which the table itself has: an index by their time cost
-- a page of every commit and a step of every message.
DROP INDEX messages_created;
DROP INDEX messages_from;
DROP INDEX messages_to;
CREATE INDEX messages_from ON messages (source_agent, number) WHERE source_agent IS NOT NULL AND state <> 0;
CREATE INDEX messages_to ON messages (destination_agent, number) WHERE destination_agent IS NOT NULL AND state <> 0;
