-- What was put into the quarantine, by kind and reason.
--
-- Parameters:
--   days = NULL: only of the last days
-- Columns:
--   kind: what it was going to be
--   reason: what is wrong
--   files: how many
--   first_at [UTC]: when the first of them was put there
--   last_at [UTC]: when the last was
SELECT kind, reason, count(*) AS files, min(noted) AS first_at, max(noted) AS last_at
FROM quarantine
WHERE $days::DOUBLE IS NULL OR noted >= now() - to_seconds($days::DOUBLE * 86400)
GROUP BY kind, reason
ORDER BY files DESC, kind, reason
