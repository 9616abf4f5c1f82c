-- Energy per km by driver and week.
--
-- Of the visible episodes; an episode belongs to the week of its start in its site's time zone. Weeks follow
-- ISO 8601: they begin on Monday, and week 1 holds the year's first Thursday.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
--   driver = NULL: only this driver
-- Columns:
--   driver: who drove
--   week: local ISO week, YYYY-Www
--   episodes: how many
--   distance_km [km]: driven in them
--   energy_kwh [kWh]: electric energy used, discharge positive
--   wh_per_km [Wh/km]: energy over distance; null where nothing was driven
--   mean_speed_kmh [km/h]: distance over time
SELECT
    driver,
    local_week AS week,
    count(*) AS episodes,
    sum(distance_m) / 1000 AS distance_km,
    sum(energy_wh) / 1000 AS energy_kwh,
    1000 * sum(energy_wh) / nullif(sum(distance_m), 0) AS wh_per_km,
    3.6 * sum(distance_m) / nullif(sum(duration_s), 0) AS mean_speed_kmh
FROM episodes
WHERE ($vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR)
  AND ($driver::VARCHAR IS NULL OR driver = $driver::VARCHAR)
GROUP BY driver, week
ORDER BY driver, week
