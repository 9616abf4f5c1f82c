-- Share of the driving time in each cell of the torque map, by speed and pedal.
--
-- Every grid row of the signals that has a speed and a pedal position counts for the cell whose node is nearest
-- (at equal distance, to 1e-4 km/h and 1e-6 of the travel, the higher one). The axes and the grid's rate are
-- those of the vehicle's latest episode; a vehicle without an episode is left out. Cells that were never visited
-- are listed with 0.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
-- Columns:
--   vehicle: which
--   map_row: row of the map, from 0
--   pedal_column: column of the map, from 0
--   speed_kmh [km/h]: the row's node
--   pedal: the column's node, share of full travel
--   seconds [s]: time spent there
--   share: of the vehicle's time with both signals; the cells of a vehicle sum to 1
WITH axes AS (
    SELECT
        vehicle,
        arg_max(pedal_axis, start_ns) AS pedals,
        arg_max(speed_axis_kmh, start_ns) AS speeds,
        arg_max(rate_hz, start_ns) AS rate_hz
    FROM episodes
    WHERE $vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR
    GROUP BY vehicle
),
speeds AS (
    SELECT vehicle, k AS map_row, speeds[k + 1] AS speed_kmh,
        CASE WHEN k = 0 THEN '-inf'::DOUBLE ELSE round((speeds[k] + speeds[k + 1]) / 2, 4) END AS beginning
    FROM (SELECT vehicle, speeds, unnest(range(len(speeds))) AS k FROM axes)
),
pedals AS (
    SELECT vehicle, k AS pedal_column, pedals[k + 1] AS pedal,
        CASE WHEN k = 0 THEN '-inf'::DOUBLE ELSE round((pedals[k] + pedals[k + 1]) / 2, 6) END AS beginning
    FROM (SELECT vehicle, pedals, unnest(range(len(pedals))) AS k FROM axes)
),
driven AS (
    SELECT vehicle, round(velocity::DOUBLE, 4) AS velocity, round(thrust::DOUBLE / 100, 6) AS pedal
    FROM signals
    WHERE velocity IS NOT NULL AND thrust IS NOT NULL
      AND ($vehicle::VARCHAR IS NULL OR vehicle = $vehicle::VARCHAR)
),
visited AS (
    SELECT d.vehicle, s.map_row, p.pedal_column, count(*) AS samples
    FROM driven d
    ASOF JOIN speeds s ON s.vehicle = d.vehicle AND d.velocity >= s.beginning
    ASOF JOIN pedals p ON p.vehicle = d.vehicle AND d.pedal >= p.beginning
    GROUP BY ALL
)
SELECT
    vehicle,
    map_row,
    pedal_column,
    speed_kmh,
    pedal,
    coalesce(samples, 0) / rate_hz AS seconds,
    coalesce(coalesce(samples, 0) / sum(samples) OVER (PARTITION BY vehicle), 0) AS share
FROM axes
JOIN speeds USING (vehicle)
JOIN pedals USING (vehicle)
LEFT JOIN visited USING (vehicle, map_row, pedal_column)
ORDER BY vehicle, map_row, pedal_column
