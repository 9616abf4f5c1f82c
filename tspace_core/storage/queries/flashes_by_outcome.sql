-- How flashes ended, by vehicle and week.
--
-- Weeks are ISO weeks in UTC, as a flash may lie in no episode whose site would say a time zone.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
-- Columns:
--   vehicle: which
--   week [UTC]: ISO week, YYYY-Www; null where the clock of the log is not known
--   outcome: APPLIED, REVERTED, UNKNOWN, REFUSED
--   flashes: how many
--   largest_change_nm [Nm]: largest change of a cell by one of them, where known
SELECT
    vehicle,
    strftime(timezone('UTC', time), '%G-W%V') AS week,
    outcome,
    count(*) AS flashes,
    max(largest_change_nm) AS largest_change_nm
FROM flashes
WHERE $vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR
GROUP BY ALL
ORDER BY vehicle, week, outcome
