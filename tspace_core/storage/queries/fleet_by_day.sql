-- What each vehicle drove, by day.
--
-- An episode belongs to the day of its start in its site's time zone.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
-- Columns:
--   day: local day
--   vehicle: which
--   episodes: how many
--   hours [h]: time in them
--   distance_km [km]: driven in them
--   energy_kwh [kWh]: used, discharge positive
--   records: in them
--   invalid_share: share of the records whose reward is not their action's
SELECT
    local_day AS day,
    vehicle,
    count(*) AS episodes,
    sum(duration_s) / 3600 AS hours,
    sum(distance_m) / 1000 AS distance_km,
    sum(energy_wh) / 1000 AS energy_kwh,
    sum(records)::BIGINT AS records,
    sum(invalid_records) / sum(records) AS invalid_share
FROM episodes
WHERE $vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR
GROUP BY ALL
ORDER BY day, vehicle
