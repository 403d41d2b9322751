-- Removes all batches up to the last one of $2, so that the remaining numbers have no gaps. The walk found only expired
-- ones. Only retention locks numbered batches, so this waits for another removal at most.
DELETE FROM change_batches
WHERE last_change <= (SELECT max(walked.id::bigint) FROM unnest($2::text[]) AS walked (id)) AND recorded_at < $1
RETURNING recorded_at AS first_received_at
