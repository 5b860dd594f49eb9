-- Which of these tables no longer have the columns they had.
-- $1: schemas, $2: names, $3: hashes of columns as table.sql has them.
select wanted.schema as changed_schema, wanted.name as changed_table
from unnest($1::text[], $2::text[], $3::text[]) as wanted (schema, name, hash)
where wanted.hash is distinct from (
    select md5(string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
                                    a.attnotnull, a.attgenerated, a.attidentity),
                          ',' order by a.attnum))
    from pg_catalog.pg_attribute a
    where a.attrelid = to_regclass(quote_ident(wanted.schema) || '.' || quote_ident(wanted.name))
      and a.attnum > 0 and not a.attisdropped)
limit 1
