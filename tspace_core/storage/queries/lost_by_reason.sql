-- What was lost on the way from logs to episodes, by reason.
--
-- Records that could not be completed, rows of the grid that no window may hold, lines of flash journals that
-- were not used, logs with signals that gave no episode at all, and files put into the quarantine.
--
-- Parameters:
--   vehicle = NULL: only this vehicle; files in the quarantine belong to none
-- Columns:
--   vehicle: which; null for files in the quarantine
--   unit: records, rows (of the grid), lines (of flash journals), logs, files
--   reason: why
--   lost: how many of the unit
--   logs: in how many logs; null for files in the quarantine
WITH whole AS (
    SELECT vehicle, key FROM logs
    WHERE signals AND key NOT IN (SELECT log_key FROM episodes)
),
found AS (
    SELECT vehicle, unit, reason, sum(lost)::BIGINT AS lost, count(DISTINCT log_key) AS logs
    FROM losses GROUP BY ALL
    UNION ALL
    SELECT vehicle, 'logs', 'has signals but no episode', count(*), count(*) FROM whole GROUP BY ALL
    UNION ALL
    SELECT NULL, 'files', kind || ': ' || reason, count(*), NULL FROM quarantine GROUP BY ALL
)
SELECT vehicle, unit, reason, lost, logs
FROM found
WHERE $vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR
ORDER BY vehicle NULLS LAST, unit, lost DESC, reason
