-- How much is in quarantine. The length of a body is known without reading it.
SELECT
    count(*) AS "bodies!",
    count(*) FILTER (WHERE acknowledged) AS "acknowledged!",
    coalesce(sum(octet_length(body)) FILTER (WHERE NOT acknowledged), 0)::bigint AS "refused_bytes!"
FROM quarantine
