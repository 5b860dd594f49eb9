-- $1 pipeline, $2 source, $3 first wait, $4 longest wait, $5 how long a change may wait for a row; the others are
-- arrays, of which each place is an entry. Of two with one source_id the last one counts.
with entry as (
    select distinct on (e.source_id) e.*
    from unnest($6::text[], $7::bytea[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::bigint[])
        with ordinality as e (source_id, id, state, reason, message, column_name, document, document_bytes, place)
    order by e.source_id, e.place desc
),
before as (
    select source_id, state from rowstream.held
    where pipeline = $1 and source = $2 and source_id = any($6::text[])
)
insert into rowstream.held as h
    (pipeline, source, source_id, id, state, reason, message, column_name, waiting_since, next_attempt_at,
     document, document_bytes)
select $1, $2, e.source_id, e.id, e.state, e.reason, e.message, e.column_name,
       case when e.state = 'waiting' then now() end, now() + $3::interval, e.document, e.document_bytes
from entry as e
order by e.source_id
on conflict (pipeline, source, source_id) do update set
    id = excluded.id,
    reason = excluded.reason,
    message = excluded.message,
    column_name = excluded.column_name,
    document = excluded.document,
    document_bytes = excluded.document_bytes,
    state = case when excluded.state = 'waiting' and h.state <> 'resolved' and h.waiting_since < now() - $5::interval
        then 'failed' else excluded.state end,
    waiting_since = case when excluded.state <> 'waiting' then null
        when h.state = 'resolved' then now() else coalesce(h.waiting_since, now()) end,
    last_attempt_at = now(),
    resolved_at = null,
    first_held_at = case when h.state = 'resolved' then now() else h.first_held_at end,
    attempts = case when h.state = 'resolved' then 1 else h.attempts + 1 end,
    next_attempt_at = now() + case when h.state = 'resolved' then $3::interval
        else least($4::interval, $3::interval * power(2, least(h.attempts, 30))) end
returning
    source_id,
    state = 'failed' as is_failed,
    attempts = 1 and state = 'failed' as is_new_fault,
    waiting_since is not null and state = 'failed'
        and coalesce((select b.state = 'waiting' from before as b where b.source_id = h.source_id), false) as is_overdue
