-- $1 pipeline, $2 source, $3 first wait, $4 longest wait, $5 how long a change may wait for a row; the others are
-- arrays, of which each place is an entry, but for $14, the table that they were to be written to. Of two with one
-- source_id the last one counts.
with entry as (
    select distinct on (e.source_id) e.*
    from unnest($6::text[], $7::bytea[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::bigint[],
                $15::text[], $16::bytea[], $17::bytea[])
        with ordinality as e (source_id, id, state, reason, message, column_name, document, document_bytes,
                              occupied_columns, occupied_value, occupant, place)
    order by e.source_id, e.place desc
),
before as (
    select source_id, state, occupant, occupied_value from rowstream.held
    where pipeline = $1 and source = $2 and source_id = any($6::text[])
)
insert into rowstream.held as h
    (pipeline, source, source_id, id, state, reason, message, column_name, waiting_since, next_attempt_at,
     document, document_bytes, occupied_target, occupied_columns, occupied_value, occupant)
select $1, $2, e.source_id, e.id, e.state, e.reason, e.message, e.column_name,
       case when e.state = 'waiting' then now() end, now() + $3::interval, e.document, e.document_bytes,
       case when e.occupant is not null then $14 end,
       e.occupied_columns, e.occupied_value, e.occupant
from entry as e
order by e.source_id
on conflict (pipeline, source, source_id) do update set
    id = excluded.id,
    reason = excluded.reason,
    message = excluded.message,
    column_name = excluded.column_name,
    document = excluded.document,
    document_bytes = excluded.document_bytes,
    occupied_target = excluded.occupied_target,
    occupied_columns = excluded.occupied_columns,
    occupied_value = excluded.occupied_value,
    occupant = excluded.occupant,
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
    reason = 'unique_violation' and (attempts = 1 or occupant is not null and not exists (
        select from before as b
        where b.source_id = h.source_id and b.occupant = h.occupant and b.occupied_value = h.occupied_value
    )) as collides_anew,
    waiting_since is not null and state = 'failed'
        and coalesce((select b.state = 'waiting' from before as b where b.source_id = h.source_id), false) as is_overdue
