-- The size of the quarantine. octet_length does not read the body.
SELECT
    count(*) AS "bodies!",
    count(*) FILTER (WHERE acknowledged) AS "acknowledged!",
    coalesce(sum(octet_length(body)) FILTER (WHERE NOT acknowledged), 0)::bigint AS "refused_bytes!"
FROM quarantine
