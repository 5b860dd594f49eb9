//! The tables of the four systems, pinned: what their applications' own descriptions say of columns, defaults, keys and
//! delete rules. The tests of a system notice a rule that matters to rowstream; here nothing of a schema gets lost.

use anyhow::{Context, Result};

use super::scene::Scene;
use crate::daemon::command;

/// A line for each column, constraint, unique index and enum, below its table.
const CATALOG: &str = "
with lines(of_table, rank, place, line) as (
    select r.relname, 1, a.attnum::integer, concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
        case when a.attnotnull then 'not null' end,
        case when a.attidentity <> '' then 'identity' else 'default ' || pg_get_expr(d.adbin, d.adrelid) end)
    from pg_class r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0
    left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    where r.relkind = 'r' and r.relnamespace = 'public'::regnamespace
    union all
    select r.relname, 2, 0, pg_get_constraintdef(c.oid)
    from pg_constraint c join pg_class r on r.oid = c.conrelid
    where c.contype in ('p', 'u', 'f', 'c', 'x') and r.relnamespace = 'public'::regnamespace
    union all
    select r.relname, 3, 0, pg_get_indexdef(i.indexrelid)
    from pg_index i join pg_class r on r.oid = i.indrelid
    where i.indisunique and r.relnamespace = 'public'::regnamespace
        and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
    union all
    select 'enum ' || t.typname, 1, e.enumsortorder::integer, e.enumlabel
    from pg_type t join pg_enum e on e.enumtypid = t.oid where t.typnamespace = 'public'::regnamespace
), tables(of_table, text) as (
    select of_table, string_agg('    ' || line, E'\\n' order by rank, place, line collate \"C\") from lines group by of_table
)
select string_agg(of_table || E'\\n' || text, E'\\n' order by of_table collate \"C\") from tables";

#[tokio::test]
async fn the_tables_of_each_system_are_those_of_its_application() -> Result<()> {
    let systems =
        [super::budget::BUDGET, super::expenses::EXPENSES, super::todo::TODO, super::nextcrm::NEXTCRM];
    for system in systems {
        let scene = Scene::set(system, "catalog").await?;
        let catalog = scene.stage.text(CATALOG).await?.context("no tables")?;
        insta::assert_snapshot!(format!("tables_of_{}", system.name), catalog);
        // Nothing is in MongoDB yet, which is said of each collection; what else is said is of the mapping.
        let checked = command(&["check"], &scene.config)?;
        let text = String::from_utf8(checked.stdout)?;
        let others =
            ["mongodb:", "postgresql:", "state:", "rowstream migrate", "allow_empty", "scene_marker"];
        let lines = text.lines().filter(|line| !others.iter().any(|word| line.contains(word)));
        let lines = lines.filter(|line| !line.contains("does not exist"));
        let said = lines.collect::<Vec<_>>().join("\n").replace(&scene.stage.name, "<database>");
        insta::assert_snapshot!(format!("check_of_{}", system.name), said);
        assert_eq!(checked.status.code(), Some(0), "{}", system.name);
    }
    Ok(())
}
