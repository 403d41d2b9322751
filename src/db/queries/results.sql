-- The results of the sources $1, in this order, at most $3 rows. A source is a prediction if its $8 is true, otherwise an
-- execution. Only results of the first source that are after the position $2. Only results of the kind $6 (null: all kinds),
-- and only final ones if $7 is true. The list ends once it has $4 bytes. A text of more than $5 bytes is cut off.
SELECT
    n AS "n!",
    position AS "position!",
    path AS "path!",
    step_id,
    is_final AS "is_final!",
    kind AS "kind!",
    media_type,
    url,
    text,
    coalesce(is_cut OR url ~* '^data:', false) AS "truncated!",
    is_partial AS "is_partial!"
FROM (
    SELECT
        r.*,
        coalesce(sum(octet_length(coalesce(r.url, r.text))) OVER (
            ORDER BY r.n, r.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS bytes_before
    FROM (
        SELECT
            s.n,
            r.position,
            r.path,
            r.step_id,
            r.is_final AND e.can_be_final AS is_final,
            r.kind,
            r.media_type,
            r.url,
            CASE WHEN octet_length(r.text) > $5 THEN left(r.text, $5::integer / 8) ELSE r.text END AS text,
            octet_length(r.text) > $5 AS is_cut,
            r.is_partial
        FROM unnest($1::text[], $8::boolean[]) WITH ORDINALITY AS s (id, is_prediction, n)
        CROSS JOIN LATERAL (
            SELECT output, payload, true AS can_be_final FROM executions
            WHERE execution_id = s.id AND NOT s.is_prediction
            UNION ALL
            -- A prediction of a workflow is a step.
            SELECT output, payload, workflow_id IS NULL FROM predictions
            WHERE prediction_id = s.id AND s.is_prediction AND status <> 'failed'
        ) AS e
        CROSS JOIN LATERAL execution_results(e.output, e.payload) AS r
        WHERE (s.n > 1 OR r.position > $2::bigint)
            AND ($6::text IS NULL OR r.kind = $6)
            AND (NOT $7::boolean OR r.is_final AND e.can_be_final)
        ORDER BY s.n, r.position
        LIMIT $3::bigint
    ) AS r
) AS shown
WHERE bytes_before < $4::bigint
ORDER BY n, position
