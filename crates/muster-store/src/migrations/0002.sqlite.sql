-- What SQLite writes in its own way, of the second schema.

INSERT INTO journal_head (one, since, number, hash)
    SELECT 1, COALESCE(max(number), 0) + 1, COALESCE(max(number), 0), x'' FROM journal;

-- Machines are numbered in the order in which they come, never twice: rows are never deleted once they were enrolled.
ALTER TABLE machines ADD COLUMN number INTEGER;
UPDATE machines SET number = _rowid_;
CREATE UNIQUE INDEX machines_number ON machines (number);
CREATE TRIGGER machines_number AFTER INSERT ON machines WHEN NEW.number IS NULL BEGIN
    UPDATE machines SET number = (SELECT COALESCE(max(number), 0) + 1 FROM machines) WHERE agent_id = NEW.agent_id;
END;

CREATE VIEW agents AS
SELECT
    CASE WHEN s.is_current = 0 THEN s.session + 1099511627776 ELSE m.number END AS id,
    CASE WHEN m.host_name = '' THEN m.id_text ELSE m.host_name END AS name,
    COALESCE((SELECT lower(json_extract(f.value, '$')) FROM agent_facts f
        WHERE f.agent_id = m.agent_id AND f.name = 'kernel'), 'unknown') || '.' || m.id_text AS queueloc,
    COALESCE((SELECT lower(json_extract(f.value, '$')) FROM agent_facts f
        WHERE f.agent_id = m.agent_id AND f.name = 'kernel'), '') AS os,
    COALESCE(s.version, '') AS version,
    COALESCE(s.pid, 0) AS pid,
    strftime('%Y-%m-%d %H:%M:%f', COALESCE(s.started, m.created) / 1e9, 'unixepoch') AS starttime,
    strftime('%Y-%m-%d %H:%M:%f', s.destroyed / 1e9, 'unixepoch') AS destructiontime,
    strftime('%Y-%m-%d %H:%M:%f', CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END / 1e9,
        'unixepoch') AS heartbeattime,
    CASE WHEN s.destroyed IS NOT NULL THEN 'destroyed'
        WHEN unixepoch('subsec') * 1e9 - CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END
            <= t.idle_after THEN 'online'
        WHEN unixepoch('subsec') * 1e9 - CASE WHEN s.is_current = 0 THEN s.last_seen ELSE m.last_contact END
            <= t.offline_after THEN 'idle'
        ELSE 'offline' END AS status,
    json_object(
        'os', (SELECT lower(json_extract(f.value, '$')) FROM agent_facts f
            WHERE f.agent_id = m.agent_id AND f.name = 'kernel'),
        'arch', (SELECT CASE json_extract(f.value, '$') WHEN 'x86_64' THEN 'amd64' WHEN 'aarch64' THEN 'arm64'
            WHEN 'i686' THEN '386' ELSE json_extract(f.value, '$') END FROM agent_facts f
            WHERE f.agent_id = m.agent_id AND f.name = 'architecture'),
        'ident', (SELECT json_extract(f.value, '$') FROM agent_facts f
            WHERE f.agent_id = m.agent_id AND f.name = 'os_name'),
        'addresses', (SELECT json(f.value) FROM agent_facts f
            WHERE f.agent_id = m.agent_id AND f.name = 'addresses')) AS environment,
    COALESCE((SELECT json(f.value) FROM agent_facts f WHERE f.agent_id = m.agent_id AND f.name = 'tags'), '{}') AS tags,
    'daemon' AS mode,
    strftime('%Y-%m-%d %H:%M:%f', COALESCE(m.facts_at, m.created) / 1e9, 'unixepoch') AS refreshtime,
    '' AS loadername
FROM machines m CROSS JOIN agent_times t LEFT JOIN agent_sessions s ON s.agent = m.number
WHERE m.state IN (0, 2);

CREATE VIEW actions AS
SELECT
    a.number AS id, a.name, a.target, a.description, a.threat, a.operations,
    strftime('%Y-%m-%d %H:%M:%f', a.valid_from / 1e9, 'unixepoch') AS validfrom,
    strftime('%Y-%m-%d %H:%M:%f', a.expire_after / 1e9, 'unixepoch') AS expireafter,
    strftime('%Y-%m-%d %H:%M:%f', a.started / 1e9, 'unixepoch') AS starttime,
    strftime('%Y-%m-%d %H:%M:%f', a.finished / 1e9, 'unixepoch') AS finishtime,
    strftime('%Y-%m-%d %H:%M:%f', a.updated / 1e9, 'unixepoch') AS lastupdatetime,
    CASE a.status WHEN 0 THEN 'waiting' WHEN 1 THEN 'pending' WHEN 2 THEN 'scheduled' WHEN 3 THEN 'preparing'
        WHEN 4 THEN 'inflight' WHEN 5 THEN 'completed' WHEN 6 THEN 'invalid' ELSE 'cancelled' END AS status,
    a.sent AS sentctr,
    a.success + a.failed + a.timeout AS returnedctr,
    a.success AS donectr,
    a.cancelled + a.expired AS cancelledctr,
    a.failed AS failedctr,
    a.timeout AS timeoutctr,
    (SELECT json_group_array(s.pgpsignature) FROM signatures s WHERE s.actionid = a.number) AS pgpsignatures,
    a.syntax_version AS syntaxversion
FROM action_rows a;

CREATE VIEW commands AS
SELECT
    c.action * 67108864 + c.agent AS id,
    c.action AS actionid,
    c.agent AS agentid,
    CASE c.state WHEN 2 THEN 'success' WHEN 3 THEN 'failed' WHEN 4 THEN 'timeout' WHEN 5 THEN 'expired'
        WHEN 6 THEN 'cancelled' ELSE 'sent' END AS status,
    (SELECT r.results FROM result_rows r WHERE r.action = c.action AND r.agent = c.agent AND r.late = 0) AS results,
    strftime('%Y-%m-%d %H:%M:%f', c.created / 1e9, 'unixepoch') AS starttime,
    CASE WHEN c.state > 1 THEN strftime('%Y-%m-%d %H:%M:%f', c.at / 1e9, 'unixepoch') END AS finishtime
FROM command_rows c;
