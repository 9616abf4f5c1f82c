-- Reward and energy by what acted: agent, default map, flash journal, realised torque.
--
-- Rewards of different kinds have different units and are never summed. This compares whatever was driven; for
-- equal distance and time see the evaluation's report.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
-- Columns:
--   vehicle: which
--   agent: what acted
--   reward_kind: unit of the reward
--   episodes: how many
--   records: in them
--   reward_per_record: mean
--   reward_per_episode: mean
--   wh_per_km [Wh/km]: energy over distance
SELECT
    vehicle,
    action_source AS agent,
    reward_kind,
    count(*) AS episodes,
    sum(records)::BIGINT AS records,
    sum(reward_sum) / sum(records) AS reward_per_record,
    avg(reward_sum) AS reward_per_episode,
    1000 * sum(energy_wh) / nullif(sum(distance_m), 0) AS wh_per_km
FROM episodes
WHERE $vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR
GROUP BY ALL
ORDER BY vehicle, agent, reward_kind
