-- One table as one JSON document, and a fingerprint of the part of it that a plan depends on.
-- $1: schema, $2: name. No row if there is no such table.
with recursive relation as (
    select c.oid, c.relkind, n.oid as schema_oid
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1::text and c.relname = $2::text and c.relkind in ('r', 'p', 'v', 'm', 'f')
),
-- A domain is followed down to its base type; the last modifier on the way counts.
step as (
    select a.attnum, 0 as depth, a.atttypid as type, a.atttypmod as modifier, a.attnotnull as not_null,
           a.atthasdef or a.attidentity <> '' as has_default
    from relation
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid
    where a.attnum > 0 and not a.attisdropped
    union all
    select step.attnum, step.depth + 1, t.typbasetype,
           case when t.typtypmod = -1 then step.modifier else t.typtypmod end,
           step.not_null or t.typnotnull,
           step.has_default or t.typdefault is not null
    from step
    join pg_catalog.pg_type t on t.oid = step.type and t.typtype = 'd'
),
resolved as (
    select distinct on (attnum) * from step order by attnum, depth desc
),
columns as (
    select coalesce(jsonb_agg(jsonb_build_object(
               'number', a.attnum,
               'name', a.attname,
               'declared_type', a.atttypid::bigint,
               'type_oid', t.oid::bigint,
               'type_name', t.typname,
               'modifier', resolved.modifier,
               -- format_type knows the names of the standard; other types are named with their schema,
               -- whatever the search path, and keep the modifier that format_type prints.
               'cast_sql', case when type_schema.nspname = 'pg_catalog' then format_type(t.oid, -1)
                                else quote_ident(type_schema.nspname) || '.' || quote_ident(t.typname) end,
               'type_sql', case when type_schema.nspname = 'pg_catalog' then format_type(t.oid, resolved.modifier)
                                else quote_ident(type_schema.nspname) || '.' || quote_ident(t.typname)
                                     || substr(format_type(t.oid, resolved.modifier),
                                               length(format_type(t.oid, -1)) + 1) end,
               'not_null', resolved.not_null,
               'has_default', resolved.has_default,
               'generated', a.attgenerated <> '' or a.attidentity = 'a',
               'nondeterministic', coalesce((
                   select not o.collisdeterministic from pg_catalog.pg_collation o where o.oid = a.attcollation), false),
               'labels', case when t.typtype = 'e' then (
                   select jsonb_agg(e.enumlabel order by e.enumsortorder)
                   from pg_catalog.pg_enum e where e.enumtypid = t.oid) end,
               'element', case when t.typcategory = 'A' then (
                   select jsonb_build_object(
                       'type_oid', b.oid::bigint,
                       'type_name', b.typname,
                       'cast_sql', quote_ident(s.nspname) || '.' || quote_ident(b.typname),
                       'labels', case when b.typtype = 'e' then (
                           select jsonb_agg(e.enumlabel order by e.enumsortorder)
                           from pg_catalog.pg_enum e where e.enumtypid = b.oid) end)
                   from pg_catalog.pg_type b
                   join pg_catalog.pg_namespace s on s.oid = b.typnamespace
                   -- An element that is a domain has checks of its own: not one of the types we know.
                   where b.typarray = t.oid and b.typtype in ('b', 'e')) end,
               'sequence', (
                   select jsonb_build_object('schema', n.nspname, 'name', s.relname, 'increment', q.seqincrement,
                                             'maximum', q.seqmax, 'cache', q.seqcache)
                   from pg_catalog.pg_depend o
                   join pg_catalog.pg_class s on s.oid = o.objid
                   join pg_catalog.pg_namespace n on n.oid = s.relnamespace
                   join pg_catalog.pg_sequence q on q.seqrelid = s.oid
                   where o.classid = 'pg_class'::regclass and o.deptype in ('a', 'i')
                     and o.refclassid = 'pg_class'::regclass and o.refobjid = a.attrelid
                     and o.refobjsubid = a.attnum
                   order by s.oid limit 1)
           ) order by a.attnum), '[]') as document
    from relation
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid
    join resolved on resolved.attnum = a.attnum
    join pg_catalog.pg_type t on t.oid = resolved.type
    join pg_catalog.pg_namespace type_schema on type_schema.oid = t.typnamespace
),
unique_keys as (
    select coalesce(jsonb_agg(jsonb_build_object(
               'name', c.relname,
               'columns', (
                   select coalesce(jsonb_agg(a.attname order by key.place), '[]')
                   from unnest(i.indkey::int2[]) with ordinality as key (number, place)
                   join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = key.number
                   where key.place <= i.indnkeyatts),
               'deferrable', not i.indimmediate,
               'nondeterministic', exists (
                   select from pg_catalog.pg_collation o
                   where o.oid = any (i.indcollation::oid[]) and not o.collisdeterministic),
               'partial_or_expression', i.indpred is not null or i.indexprs is not null,
               'predicate', pg_get_expr(i.indpred, i.indrelid)
           ) order by i.indisprimary desc, c.relname), '[]') as document
    from relation
    join pg_catalog.pg_index i on i.indrelid = relation.oid and i.indisunique and i.indisvalid
    join pg_catalog.pg_class c on c.oid = i.indexrelid
),
foreign_keys as (
    select coalesce(jsonb_agg(jsonb_build_object(
               'name', k.conname,
               'columns', (
                   select jsonb_agg(a.attname order by key.place)
                   from unnest(k.conkey) with ordinality as key (number, place)
                   join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = key.number),
               'schema', n.nspname,
               'table', c.relname,
               'referenced_columns', (
                   select jsonb_agg(a.attname order by key.place)
                   from unnest(k.confkey) with ordinality as key (number, place)
                   join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = key.number),
               'on_delete', k.confdeltype,
               'on_update', k.confupdtype,
               'deferrable', k.condeferrable
           ) order by k.conname), '[]') as document
    from relation
    join pg_catalog.pg_constraint k on k.conrelid = relation.oid and k.contype = 'f'
    join pg_catalog.pg_class c on c.oid = k.confrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    -- A key to a partitioned table has a copy of itself for each partition.
    where not exists (
        select from pg_catalog.pg_constraint parent
        where parent.oid = k.conparentid and parent.conrelid = k.conrelid)
),
triggers as (
    select coalesce(jsonb_agg(g.tgname order by g.tgname), '[]') as document
    from relation
    join pg_catalog.pg_trigger g on g.tgrelid = relation.oid
    where not g.tgisinternal and g.tgenabled in ('O', 'A') and g.tgtype & 1 = 1
),
-- An update rule forbids `on conflict` even where it is switched off.
rules as (
    select coalesce(jsonb_agg(r.rulename order by r.rulename), '[]') as document
    from relation
    join pg_catalog.pg_rewrite r on r.ev_class = relation.oid
    where r.ev_type = '2'
       or r.ev_enabled in ('O', 'A') and (r.ev_type = '3' or r.ev_type = '4' and r.is_instead)
),
shape as (
    select jsonb_build_object(
        'oid', relation.oid::bigint,
        'kind', relation.relkind,
        'columns', columns.document,
        'unique_keys', unique_keys.document,
        'foreign_keys', foreign_keys.document,
        'triggers', triggers.document,
        'rules', rules.document) as document
    from relation, columns, unique_keys, foreign_keys, triggers, rules
),
-- As guard.sql has it.
column_versions as (
    select array_agg(a.xmin order by a.attnum)::text as versions
    from relation
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid and a.attnum > 0
),
-- No part of the fingerprint: how fast rows are found changes no row.
indexes as (
    select coalesce(jsonb_agg((
               select jsonb_agg(a.attname order by key.place)
               from unnest(i.indkey::int2[]) with ordinality as key (number, place)
               join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = key.number
               where key.place <= i.indnkeyatts) order by i.indexrelid), '[]') as document
    from relation
    join pg_catalog.pg_index i on i.indrelid = relation.oid
    where i.indisvalid and i.indpred is null and i.indexprs is null
),
-- Columns whose elements an index finds.
element_indexes as (
    select coalesce(jsonb_agg(distinct a.attname), '[]') as document
    from relation
    join pg_catalog.pg_index i on i.indrelid = relation.oid
    join pg_catalog.pg_class c on c.oid = i.indexrelid
    join pg_catalog.pg_am m on m.oid = c.relam and m.amname = 'gin'
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
    where i.indisvalid and i.indpred is null
),
missing as (
    select coalesce(jsonb_agg(wanted.privilege order by wanted.place), '[]') as document
    from relation
    cross join lateral (values
        (1, 'usage on schema', has_schema_privilege(relation.schema_oid, 'usage')),
        -- A merge into an ordinary table reads xmax, which privileges on columns do not cover.
        (2, 'select', case relation.relkind
                          when 'r' then has_column_privilege(relation.oid, 'xmax', 'select')
                          else has_any_column_privilege(relation.oid, 'select') end),
        (3, 'insert', has_any_column_privilege(relation.oid, 'insert')),
        (4, 'update', has_any_column_privilege(relation.oid, 'update')),
        (5, 'delete', has_table_privilege(relation.oid, 'delete'))
    ) as wanted (place, privilege, granted)
    where not wanted.granted
),
-- What is missing on the whole table is not told again for each column.
missing_on_columns as (
    select a.attnum, a.attname, wanted.privilege
    from relation
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid and a.attnum > 0 and not a.attisdropped
    cross join unnest(array['select', 'insert', 'update']) as wanted (privilege)
    where has_any_column_privilege(relation.oid, wanted.privilege)
      and not has_column_privilege(relation.oid, a.attnum, wanted.privilege)
    union all
    -- An identity's sequence asks for nothing.
    select a.attnum, a.attname, 'usage on sequence ' || s.oid::regclass
    from relation
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid and a.attidentity = ''
    join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    join pg_catalog.pg_depend l on l.classid = 'pg_attrdef'::regclass and l.objid = d.oid
                               and l.refclassid = 'pg_class'::regclass
    -- The check must not be moved before the join: other kinds of relations are no sequences.
    join pg_catalog.pg_class s on s.oid = l.refobjid
    where case s.relkind when 'S' then not has_sequence_privilege(s.oid, 'usage, update') else false end
    union all
    -- What it takes to keep a column's own sequence past the values that are written.
    select a.attnum, a.attname, 'select, update on sequence ' || s.oid::regclass
    from relation
    join pg_catalog.pg_depend o on o.refobjid = relation.oid and o.refclassid = 'pg_class'::regclass
                               and o.classid = 'pg_class'::regclass and o.deptype in ('a', 'i')
    join pg_catalog.pg_sequence q on q.seqrelid = o.objid
    join pg_catalog.pg_class s on s.oid = q.seqrelid
    join pg_catalog.pg_attribute a on a.attrelid = relation.oid and a.attnum = o.refobjsubid
    where case s.relkind when 'S' then not (has_sequence_privilege(s.oid, 'select')
                                            and has_sequence_privilege(s.oid, 'update')) else false end
),
column_privileges as (
    select coalesce(jsonb_agg(jsonb_build_array(attname, privilege) order by attnum, privilege), '[]') as document
    from missing_on_columns
)
select shape.document::text as shape,
       concat_ws('.', relation.relkind, relation.oid, coalesce(column_versions.versions, '{}'),
                 md5(shape.document::text)) as fingerprint,
       indexes.document::text as indexes,
       element_indexes.document::text as element_indexes,
       missing.document::text as missing_privileges,
       column_privileges.document::text as missing_column_privileges,
       row_security_active(relation.oid) as row_security
from relation, shape, indexes, element_indexes, missing, column_privileges, column_versions
