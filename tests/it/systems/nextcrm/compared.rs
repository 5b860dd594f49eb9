//! What `verify` says of damage to a CRM, and what `repair` makes of it.

use anyhow::Result;

use super::generator::id;
use super::oracle::made_id;
use super::stream::running;
use crate::comparison::{found, repair, verify};

#[tokio::test]
async fn damage_to_a_crm_is_told_by_document_and_column_and_repaired() -> Result<()> {
    let crm = running("compared", 28).await?;
    crm.scene.verifies(100)?;
    let row = |collection: &str, number: usize| {
        format!("\"{collection}\" where id = '{}'", made_id(collection, id(collection, number)))
    };
    let set = |collection: &str, number: usize, change: &str| {
        row(collection, number).replacen(" where", &format!(" set {change} where"), 1)
    };
    let damage = [
        // A reference to the wrong parent, and one that no foreign key stands for.
        set(
            "crm_Accounts",
            1,
            r#""assigned_to" = (select id from "Users" as other where other.id is distinct from "assigned_to" limit 1)"#,
        ),
        set("crm_Contacts", 2, r#""createdBy" = gen_random_uuid()"#),
        set(
            "Tasks",
            3,
            r#""taskStatus" = case when "taskStatus" = 'ACTIVE' then null else 'ACTIVE'::"taskStatus" end"#,
        ),
        set("Tasks", 4, r#""tags" = '["planted"]'"#),
        set("Boards", 5, r#""sharedWith" = array_append("sharedWith", gen_random_uuid())"#),
        set("crm_Opportunities", 6, r#""createdAt" = "createdAt" + interval '1 millisecond'"#),
        set("Users", 7, r#""email" = upper("email"), "is_admin" = not "is_admin""#),
        set("Employees", 1, r#""salary" = "salary" + 1"#),
    ];
    let mut sql: String = damage.iter().map(|damage| format!("update {damage};")).collect();
    sql.push_str(&format!("delete from {};", row("TodoList", 0)));
    let pair = format!(
        "values ('{}', '{}')",
        made_id("Documents", id("Documents", 8)),
        made_id("crm_Leads", id("crm_Leads", 9))
    );
    sql.push_str(&format!("insert into \"DocumentsToLeads\" {pair};"));
    crm.scene.stage.execute(&sql).await?;

    let (report, code) = verify(&crm.scene.config, &[])?;
    let told = |kind: &str, collection: &str, number: usize, columns: &str| {
        format!("{kind} {} {columns}", id(collection, number).to_hex()).trim_end().to_owned()
    };
    let expected = [
        told("different", "crm_Accounts", 1, "assigned_to"),
        told("different", "crm_Contacts", 2, "createdBy"),
        told("different", "Tasks", 3, "taskStatus"),
        told("different", "Tasks", 4, "tags"),
        told("different", "Boards", 5, "sharedWith"),
        told("different", "crm_Opportunities", 6, "createdAt"),
        told("different", "Users", 7, "email,is_admin"),
        told("different", "Employees", 1, "salary"),
        told("missing", "TodoList", 0, ""),
        told("extra_child", "Documents", 8, ""),
        told("extra_child", "crm_Leads", 9, ""),
    ];
    assert_eq!((code, found(&report)), (1, expected.into()), "{report:#}");

    let (repaired, code) = repair(&crm.scene.config, &["--apply"])?;
    assert_eq!(code, 0, "{repaired:#}");
    crm.becomes_right().await?;
    crm.scene.verifies(100)
}
