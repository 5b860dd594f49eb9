-- The ids that rowstream makes, for applications that must know them too. rowstream itself does not need this.
--
--     select rowstream_uuid('orders', '5f43a1b2c3d4e5f607182930');        -- key: uuid
--     select rowstream_key('txn_', 'venmo', 'a1');                        -- key: { prefix: txn_ }
--
-- `source` is the mapping's, `source_id` the id as text (docs/TYPES.md, Ids as text), `namespace` the setting
-- id_namespace; what stands here is its default.

create extension if not exists pgcrypto;

create function rowstream_uuid(
    source text, source_id text, namespace uuid default '95f5c7b4-e87b-5645-84e5-2e5531347372'
) returns uuid language sql immutable strict parallel safe as $$
    select encode(set_byte(set_byte(hash, 6, get_byte(hash, 6) & 15 | 80), 8, get_byte(hash, 8) & 63 | 128), 'hex')::uuid
    from substr(
        digest(uuid_send(namespace) || convert_to(source, 'UTF8') || '\x00'::bytea || convert_to(source_id, 'UTF8'), 'sha1'),
        1, 16) as hash
$$;

-- 128 bits, 5 for each character of Crockford's base 32, the first character holding the upper 3.
create function rowstream_key(
    prefix text, source text, source_id text, namespace uuid default '95f5c7b4-e87b-5645-84e5-2e5531347372'
) returns text language sql immutable strict parallel safe as $$
    select prefix || string_agg(
        substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substr(bits, 5 * place + 1, 5)::bit(5)::int + 1, 1), '' order by place)
    from generate_series(0, 25) as place,
        (select '00' || ('x' || replace(rowstream_uuid(source, source_id, namespace)::text, '-', ''))::bit(128)::text as bits)
            as made
$$;
