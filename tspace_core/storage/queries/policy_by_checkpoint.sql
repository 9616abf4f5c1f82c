-- What scored checkpoints would have done, against what was done, by vehicle and checkpoint.
--
-- Of the scores of records of visible episodes (asset policy_actions). Values are the critic's own, in its
-- scaled reward: they compare proposals of one checkpoint, not two checkpoints with each other.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
-- Columns:
--   vehicle: which
--   checkpoint: 16 hex digits of its content
--   episodes: scored
--   records: scored
--   advantage [scaled reward]: mean of the proposal's value less the recorded action's
--   better_share: of the records where the proposal is valued higher
--   clipped_share: of the cells of the proposals that are beyond the limits
--   distance: mean root mean square difference from the recorded action, share of the budget
SELECT
    vehicle,
    checkpoint,
    count(DISTINCT episode_id) AS episodes,
    count(*) AS records,
    avg(q_proposal - q_behaviour) AS advantage,
    avg((q_proposal > q_behaviour)::INTEGER) AS better_share,
    avg(clipped) AS clipped_share,
    avg(distance) AS distance
FROM policy_actions
WHERE episode_id IN (SELECT episode_id FROM episodes)
  AND ($vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR)
GROUP BY vehicle, checkpoint
ORDER BY vehicle, checkpoint
