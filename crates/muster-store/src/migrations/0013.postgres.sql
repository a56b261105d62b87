-- What PostgreSQL writes in its own way, of the thirteenth schema.
CREATE VIEW agents_stats AS
SELECT
    to_timestamp(at / 1e9) AS "timestamp",
    online_agents,
    (SELECT COALESCE(json_agg(json_build_object('version', v.key, 'count', v.value::BIGINT) ORDER BY v.key), '[]'::JSON)
        FROM json_each_text(online_agents_by_version::JSON) v) AS online_agents_by_version,
    online_endpoints,
    idle_agents,
    (SELECT COALESCE(json_agg(json_build_object('version', v.key, 'count', v.value::BIGINT) ORDER BY v.key), '[]'::JSON)
        FROM json_each_text(idle_agents_by_version::JSON) v) AS idle_agents_by_version,
    idle_endpoints, new_endpoints, multi_agents_endpoints, disappeared_endpoints, flapping_endpoints
FROM fleet_counts;
-- Who could read the table reads the view.
DO $do$
DECLARE who TEXT;
BEGIN
    FOR who IN SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = current_schema() AND table_name = 'fleet_counts' AND privilege_type = 'SELECT'
            AND grantee NOT IN (current_user, 'PUBLIC')
    LOOP
        EXECUTE format('GRANT SELECT ON agents_stats TO %I', who);
    END LOOP;
END $do$;

-- Rows that people write themselves name no time: it is the moment at which they come.
ALTER TABLE investigators
    ALTER COLUMN created SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000000)::BIGINT,
    ALTER COLUMN modified SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000000)::BIGINT;
UPDATE investigators SET created = DEFAULT, modified = DEFAULT WHERE created = 0;

-- The modules that machines said they have.
INSERT INTO modules (name)
SELECT DISTINCT m.name FROM machine_environments e,
    json_array_elements_text(CASE WHEN json_typeof(e.modules::JSON) = 'array' THEN e.modules::JSON ELSE '[]'::JSON END)
        AS m (name)
WHERE length(m.name) BETWEEN 1 AND 64
ORDER BY m.name
ON CONFLICT (name) DO NOTHING;
