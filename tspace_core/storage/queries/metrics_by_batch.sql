-- What the units of work of a batch reported, over its partitions.
--
-- Parameters:
--   name = NULL: only this batch
-- Columns:
--   name: of the batch
--   metric: of its units of work
--   partitions: units of work that reported it as a number
--   lowest: of the partitions
--   mean: over the partitions
--   highest: of the partitions
SELECT
    name,
    metric,
    count(value) AS partitions,
    min(value) AS lowest,
    avg(value) AS mean,
    max(value) AS highest
FROM metrics
WHERE value IS NOT NULL AND ($name::VARCHAR IS NULL OR name = $name::VARCHAR)
GROUP BY name, metric
ORDER BY name, metric
