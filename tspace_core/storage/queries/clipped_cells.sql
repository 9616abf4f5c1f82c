-- How often actions lie at their limit, by cell of the torque map.
--
-- Of the records of visible episodes but those whose action is zero by definition (an episode's first). An
-- action of 1 or -1 changes the default by the whole budget; an agent that often wants that has too little room
-- there, or has learned nonsense. Only cells that were clipped at least once are listed. The axes are those of
-- the vehicle's latest episode.
--
-- Parameters:
--   vehicle = NULL: only this vehicle
--   source = NULL: only actions from there: agent, flash_journal, realised_torque, default_map
-- Columns:
--   vehicle: which
--   map_row: row of the map, from 0
--   pedal_column: column of the map, from 0
--   speed_kmh [km/h]: the row's node
--   pedal: the column's node, share of full travel
--   actions: records whose action covers the cell
--   at_upper: of them at 1
--   at_lower: of them at -1
--   share: of the actions at either limit
WITH axes AS (
    SELECT vehicle, arg_max(pedal_axis, start_ns) AS pedals, arg_max(speed_axis_kmh, start_ns) AS speeds
    FROM episodes
    GROUP BY vehicle
),
acted AS (
    SELECT e.vehicle, r.first_row, r.action, len(a.pedals) AS columns
    FROM records r
    JOIN episodes e USING (episode_id)
    JOIN axes a ON a.vehicle = e.vehicle
    WHERE r.reward IS NOT NULL AND r.flags & 1 = 0
      AND ($vehicle::VARCHAR IS NULL OR r.vehicle = $vehicle::VARCHAR)
      AND ($source::VARCHAR IS NULL OR e.action_source = $source::VARCHAR)
),
covering AS (
    SELECT vehicle, first_row + k AS map_row, sum(n)::BIGINT AS actions
    FROM (SELECT vehicle, first_row, count(*) AS n FROM acted GROUP BY ALL), range(4) AS rows(k)
    GROUP BY ALL
),
cells AS (
    SELECT vehicle, first_row, columns, unnest(action) AS value, unnest(range(len(action))) AS place
    FROM acted
    WHERE list_max(action) >= 1 OR list_min(action) <= -1
),
clipped AS (
    SELECT
        vehicle,
        first_row + place // columns AS map_row,
        place % columns AS pedal_column,
        count(*) FILTER (value >= 1) AS at_upper,
        count(*) FILTER (value <= -1) AS at_lower
    FROM cells
    WHERE abs(value) >= 1
    GROUP BY ALL
)
SELECT
    vehicle,
    map_row,
    pedal_column,
    speeds[map_row + 1] AS speed_kmh,
    pedals[pedal_column + 1] AS pedal,
    actions,
    at_upper,
    at_lower,
    (at_upper + at_lower) / actions AS share
FROM clipped
JOIN covering USING (vehicle, map_row)
JOIN axes USING (vehicle)
ORDER BY vehicle, map_row, pedal_column
