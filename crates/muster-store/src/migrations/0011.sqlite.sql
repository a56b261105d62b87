-- What SQLite writes in its own way, of the eleventh schema: the view knows that an agent said that it stops.
DROP VIEW agents;
CREATE VIEW agents AS
SELECT
    CASE WHEN s.is_current = 0 THEN s.session + 1099511627776 ELSE m.number END AS id,
    m.name, m.queueloc,
    COALESCE(m.os, '') AS os,
    COALESCE(s.version, m.version) AS version,
    COALESCE(s.pid, m.pid, 0) AS pid,
    strftime('%Y-%m-%d %H:%M:%f', COALESCE(s.started, m.started, m.created) / 1e9, 'unixepoch') AS starttime,
    strftime('%Y-%m-%d %H:%M:%f', s.destroyed / 1e9, 'unixepoch') AS destructiontime,
    strftime('%Y-%m-%d %H:%M:%f', CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END / 1e9, 'unixepoch') AS heartbeattime,
    CASE WHEN s.destroyed IS NOT NULL THEN 'destroyed'
        WHEN m.left_at IS NOT NULL AND COALESCE(s.is_current, 1) = 1 THEN 'offline'
        WHEN (julianday('now') - 2440587.5) * 86400e9
            - CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END <= t.idle_after THEN 'online'
        WHEN (julianday('now') - 2440587.5) * 86400e9
            - CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END <= t.offline_after THEN 'idle'
        ELSE 'offline' END AS status,
    e.environment AS environment,
    m.tags AS tags,
    CASE WHEN m.mode = '' THEN 'daemon' ELSE m.mode END AS mode,
    strftime('%Y-%m-%d %H:%M:%f', COALESCE(m.refreshed, m.created) / 1e9, 'unixepoch') AS refreshtime,
    COALESCE(m.loader_name, '') AS loadername
FROM machines m CROSS JOIN agent_times t
    JOIN machine_environments e ON e.machine = m.number LEFT JOIN agent_sessions s ON s.agent = m.number
WHERE m.state IN (0, 2, 4);

-- `site:berlin` is label `berlin` of service `site`, also where an enrolment token gave it.
INSERT INTO agent_labels (agent_id, service, label)
    SELECT agent_id, substr(label, 1, instr(label, ':') - 1), substr(label, instr(label, ':') + 1) FROM agent_labels
    WHERE service = 'operator' AND label LIKE '_%:_%' AND label NOT LIKE 'client:%' AND instr(label, ':') > 1
    ON CONFLICT DO NOTHING;
DELETE FROM agent_labels WHERE service = 'operator' AND label LIKE '_%:_%' AND label NOT LIKE 'client:%' AND instr(label, ':') > 1;
