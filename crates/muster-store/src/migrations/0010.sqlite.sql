-- What SQLite writes in its own way, of the tenth schema.

-- The view is for tools of others, too, which may bring an SQLite of 2022: that knows no fractions of a second but in
-- Julian days.
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
WHERE m.state IN (0, 2);

-- People may write rows of investigators by hand: what is no fingerprint is refused here, and not by every server that
-- reads it. Where one stands already, its person has no key from now on, until `muster investigator key` gives one.
UPDATE investigators SET pgpfingerprint = NULL WHERE
    (SELECT length(d) NOT IN (40, 64) OR d GLOB '*[^0-9A-F]*' FROM
        (SELECT CASE WHEN x LIKE '0X%' THEN substr(x, 3) ELSE x END AS d FROM
            (SELECT upper(replace(replace(replace(pgpfingerprint, ' ', ''), ':', ''), char(9), '')) AS x)));
CREATE TRIGGER investigators_fingerprint_insert BEFORE INSERT ON investigators WHEN NEW.pgpfingerprint IS NOT NULL
    AND (SELECT length(d) NOT IN (40, 64) OR d GLOB '*[^0-9A-F]*' FROM
        (SELECT CASE WHEN x LIKE '0X%' THEN substr(x, 3) ELSE x END AS d FROM
            (SELECT upper(replace(replace(replace(NEW.pgpfingerprint, ' ', ''), ':', ''), char(9), '')) AS x)))
BEGIN
    SELECT RAISE(ABORT, 'pgpfingerprint is no whole fingerprint: it has 40 hexadecimal digits, or 64');
END;
CREATE TRIGGER investigators_fingerprint_update BEFORE UPDATE OF pgpfingerprint ON investigators
    WHEN NEW.pgpfingerprint IS NOT NULL
    AND (SELECT length(d) NOT IN (40, 64) OR d GLOB '*[^0-9A-F]*' FROM
        (SELECT CASE WHEN x LIKE '0X%' THEN substr(x, 3) ELSE x END AS d FROM
            (SELECT upper(replace(replace(replace(NEW.pgpfingerprint, ' ', ''), ':', ''), char(9), '')) AS x)))
BEGIN
    SELECT RAISE(ABORT, 'pgpfingerprint is no whole fingerprint: it has 40 hexadecimal digits, or 64');
END;
