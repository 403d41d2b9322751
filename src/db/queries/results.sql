-- At most $3 outputs of the executions $1, in this order. Of the first execution, only outputs after the position $2.
-- The list ends once its texts have $4 bytes. A text of more than $5 bytes is cut off.
SELECT
    n AS "n!",
    position AS "position!",
    name,
    kind AS "kind!",
    CASE WHEN truncated THEN left(value, $5::integer / 8) ELSE value END AS value,
    truncated AS "truncated!"
FROM (
    SELECT
        r.n,
        r.position,
        r.name,
        CASE
            WHEN r.value IS NULL OR jsonb_typeof(r.value) <> 'string' THEN 'json'
            WHEN t.value ~ '^[A-Za-z][A-Za-z0-9+.-]*://\S+$' THEN 'url'
            ELSE 'text'
        END AS kind,
        t.value,
        coalesce(octet_length(t.value) > $5, false) AS truncated,
        coalesce(sum(octet_length(t.value)) OVER (
            ORDER BY r.n, r.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS shown_before
    FROM (
        SELECT s.n, o.position, o.name, o.value
        FROM unnest($1::text[]) WITH ORDINALITY AS s (execution_id, n)
        INNER JOIN executions AS e ON s.execution_id = e.execution_id
        CROSS JOIN LATERAL (SELECT CASE s.n WHEN 1 THEN $2::bigint ELSE 0 END AS position) AS p
        CROSS JOIN LATERAL (
            -- PostgreSQL finds a part of an array without reading the elements before it.
            (
                SELECT p.position + a.position AS position, NULL AS name, a.value
                FROM jsonb_array_elements(
                    CASE jsonb_typeof(e.output) WHEN 'array' THEN jsonb_path_query_array(
                        e.output, '$[$first to $last]',
                        jsonb_build_object('first', p.position, 'last', p.position + $3::bigint - 1)
                    ) END
                ) WITH ORDINALITY AS a (value, position)
            )
            UNION ALL
            (
                SELECT f.position, f.name, f.value
                FROM jsonb_each(CASE jsonb_typeof(e.output) WHEN 'object' THEN e.output END)
                    WITH ORDINALITY AS f (name, value, position)
                WHERE f.position > p.position
                ORDER BY f.position
                LIMIT $3
            )
            UNION ALL
            SELECT 1, NULL, e.output
            WHERE jsonb_typeof(e.output) NOT IN ('array', 'object', 'null') AND p.position < 1
        ) AS o
        ORDER BY s.n, o.position
        LIMIT $3
    ) AS r
    CROSS JOIN LATERAL (SELECT r.value #>> '{}' AS value OFFSET 0) AS t
) AS shown
WHERE shown_before < $4::bigint
ORDER BY n, position
