-- The messages of one agent, newest first. What is on its way is found through the indexes that it is claimed by, and
-- through the last one here, which is all but empty: an index over all messages by their agent would make a put of many
-- agents' messages half as fast.
CREATE INDEX messages_from ON messages (source_agent, created) WHERE source_agent IS NOT NULL AND state <> 0;
CREATE INDEX messages_to ON messages (destination_agent, created) WHERE destination_agent IS NOT NULL AND state <> 0;
CREATE INDEX messages_between ON messages (source_agent) WHERE state = 0 AND source_agent IS NOT NULL
    AND destination_agent IS NOT NULL;
