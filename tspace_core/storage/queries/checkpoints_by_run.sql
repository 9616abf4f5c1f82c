-- Training runs with their checkpoints.
--
-- Parameters:
--   agent = NULL: only this agent
-- Columns:
--   agent: which
--   run: of the training
--   checkpoints: how many
--   first_step: step of the first
--   last_step: step of the last
--   last_path: where the last lies
SELECT
    agent,
    run,
    count(*) AS checkpoints,
    min(step) AS first_step,
    max(step) AS last_step,
    arg_max(path, step) AS last_path
FROM checkpoints
WHERE $agent::VARCHAR IS NULL OR agent = $agent::VARCHAR
GROUP BY agent, run
ORDER BY agent, run
