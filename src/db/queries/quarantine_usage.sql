-- The size of the quarantine. octet_length does not read the bodies.
SELECT
    count(*) AS "bodies!",
    count(*) FILTER (WHERE acknowledged) AS "acknowledged!",
    coalesce(sum(octet_length(body) + coalesce(octet_length(api_body), 0)) FILTER (WHERE NOT acknowledged), 0)::bigint AS "rejected_bytes!"
FROM quarantine
