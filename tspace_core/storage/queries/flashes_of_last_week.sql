-- Every flash of the last days, the newest first.
--
-- From the flash journals of raw logs and the training logs of online episodes. What a flash changes is counted
-- against what its rows held before; both columns are null where that is not known. Flashes of a log whose clock
-- is not known yet have no time and are not listed.
--
-- Parameters:
--   days = 7: how far back, days
--   until = NULL: the end, as 2026-01-12 or with a time (UTC); now where left out
--   vehicle = NULL: only this vehicle
-- Columns:
--   time [UTC]: when it took effect; of an online episode, the beginning of the window it was decided on
--   vehicle: which
--   driver: who drove, where the flash lies within an episode
--   log_key: log or online episode
--   episode_id: episode that it lies within
--   first_row: first of its 4 map rows
--   cells_changed: cells that differ by more than 0.01 Nm from what they held before
--   largest_change_nm [Nm]: the largest of these differences
--   outcome: APPLIED, REVERTED (rolled back), UNKNOWN (no acknowledgement), REFUSED (by the guard)
--   reason: what was said about it
SELECT
    time,
    vehicle,
    driver,
    log_key,
    episode_id,
    first_row,
    cells_changed,
    largest_change_nm,
    outcome,
    reason
FROM flashes
WHERE time < coalesce($until::TIMESTAMPTZ, now())
  AND time >= coalesce($until::TIMESTAMPTZ, now()) - to_seconds($days::DOUBLE * 86400)
  AND ($vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR)
ORDER BY time DESC, log_key, first_row
