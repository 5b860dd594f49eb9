-- Which privileges on the schema rowstream, or on any of its tables, the current role has not.
select wanted.privilege
from unnest(array['usage', 'select', 'insert', 'update', 'delete']) with ordinality as wanted (privilege, place)
join pg_namespace as state on state.nspname = 'rowstream'
where case wanted.privilege
          when 'usage' then not has_schema_privilege(state.oid, 'usage')
          else exists (select from pg_class as relation
                       where relation.relnamespace = state.oid and relation.relkind = 'r'
                         and not has_table_privilege(relation.oid, wanted.privilege))
      end
order by wanted.place
