-- Which of these tables no longer have the columns they had.
-- $1: schemas, $2: names, $3: their oids, $4: versions of their columns as table.sql has them.
-- Whatever is done to a column, its row of pg_attribute is of another transaction then; dropped columns stay there.
select wanted.schema as changed_schema, wanted.name as changed_table
from unnest($1::text[], $2::text[], $3::oid[], $4::text[]) as wanted (schema, name, oid, versions)
where to_regclass(quote_ident(wanted.schema) || '.' || quote_ident(wanted.name)) is distinct from wanted.oid
   or wanted.versions is distinct from coalesce((
    select array_agg(a.xmin order by a.attnum)::text
    from pg_catalog.pg_attribute a
    where a.attrelid = wanted.oid and a.attnum > 0), '{}')
limit 1
