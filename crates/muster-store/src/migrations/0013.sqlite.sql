-- What SQLite writes in its own way, of the thirteenth schema.
CREATE VIEW agents_stats AS
SELECT
    strftime('%Y-%m-%d %H:%M:%f', at / 1e9, 'unixepoch') AS "timestamp",
    online_agents,
    (SELECT json_group_array(json_object('version', v.key, 'count', v.value)) FROM
        (SELECT key, value FROM json_each(online_agents_by_version) ORDER BY key) v) AS online_agents_by_version,
    online_endpoints,
    idle_agents,
    (SELECT json_group_array(json_object('version', v.key, 'count', v.value)) FROM
        (SELECT key, value FROM json_each(idle_agents_by_version) ORDER BY key) v) AS idle_agents_by_version,
    idle_endpoints, new_endpoints, multi_agents_endpoints, disappeared_endpoints, flapping_endpoints
FROM fleet_counts;

-- Rows that people write themselves name no time: it is the moment at which they come.
CREATE TRIGGER investigators_time_insert AFTER INSERT ON investigators WHEN NEW.created = 0
BEGIN
    UPDATE investigators SET
        created = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000000,
        modified = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000000
    WHERE id = NEW.id;
END;
UPDATE investigators SET
    created = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000000,
    modified = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000000
WHERE created = 0;

-- The modules that machines said they have.
INSERT INTO modules (name)
SELECT DISTINCT m.value FROM machine_environments e, json_each(e.environment, '$.modules') m
WHERE m.type = 'text' AND length(m.value) BETWEEN 1 AND 64 ORDER BY m.value
ON CONFLICT (name) DO NOTHING;
