-- The look-ups of NextCRM's pages, as its data layer sends them to PostgreSQL.

-- who logs in
-- $1 = select "email" from "Users" order by "id" limit 1
select "id", "name", "password", "userStatus", "userLanguage", "is_admin" from "Users" where "email" = $1;

-- the users who were seen last, for the administrator
select "id", "name", "email", "lastLoginAt" from "Users"
where "lastLoginAt" is not null order by "lastLoginAt" desc limit 20;

-- an account with its owner and its industry
-- $1 = select "id" from "crm_Accounts" where "assigned_to" is not null order by "id" limit 1
select a.*, u."name" as owner, i."name" as industry_name
from "crm_Accounts" a
left join "Users" u on u."id" = a."assigned_to"
left join "crm_Industry_Type" i on i."id" = a."industry"
where a."id" = $1;

-- the contacts of an account
-- $1 = select "accountsIDs" from "crm_Contacts" where "accountsIDs" is not null order by "id" limit 1
select "id", "first_name", "last_name", "email", "office_phone" from "crm_Contacts" where "accountsIDs" = $1;

-- the open opportunities of an account, with their stage
-- $1 = select "account" from "crm_Opportunities" where "account" is not null order by "id" limit 1
select o."id", o."name", o."budget", o."expected_revenue", o."close_date", s."name" as stage, s."probability"
from "crm_Opportunities" o
left join "crm_Opportunities_Sales_Stages" s on s."id" = o."sales_stage"
where o."account" = $1 and o."status" = 'ACTIVE';

-- the leads of an account
-- $1 = select "accountsIDs" from "crm_Leads" where "accountsIDs" is not null order by "id" limit 1
select "id", "firstName", "lastName", "company", "status" from "crm_Leads" where "accountsIDs" = $1;

-- the contracts of an account that are signed
-- $1 = select "account" from "crm_Contracts" where "account" is not null and "status" = 'SIGNED' order by "id" limit 1
select "id", "title", "value", "startDate", "endDate" from "crm_Contracts" where "account" = $1 and "status" = 'SIGNED';

-- the documents of an account, with who made them
-- $1 = select "account_id" from "DocumentsToAccounts" order by 1 limit 1
select d."id", d."document_name", d."document_file_url", d."createdAt", u."name", u."email"
from "DocumentsToAccounts" j
join "Documents" d on d."id" = j."document_id"
left join "Users" u on u."id" = d."created_by_user"
where j."account_id" = $1;

-- who watches an account
-- $1 = select "account_id" from "AccountWatchers" order by 1 limit 1
select u."id", u."name", u."email", u."avatar"
from "AccountWatchers" w join "Users" u on u."id" = w."user_id" where w."account_id" = $1;

-- the accounts that a user watches
-- $1 = select "user_id" from "AccountWatchers" order by 1 limit 1
select a."id", a."name" from "AccountWatchers" w join "crm_Accounts" a on a."id" = w."account_id" where w."user_id" = $1;

-- the open tasks of an account, the next one first
-- $1 = select "account" from "crm_Accounts_Tasks" where "account" is not null and "taskStatus" = 'ACTIVE' order by "id" limit 1
select "id", "title", "priority", "dueDateAt" from "crm_Accounts_Tasks"
where "account" = $1 and "taskStatus" = 'ACTIVE' order by "dueDateAt";

-- the opportunities of a contact
-- $1 = select "contact_id" from "ContactsToOpportunities" order by 1 limit 1
select o."id", o."name", o."status"
from "ContactsToOpportunities" j join "crm_Opportunities" o on o."id" = j."opportunity_id" where j."contact_id" = $1;

-- the contacts of an opportunity
-- $1 = select "opportunity_id" from "ContactsToOpportunities" order by 1 limit 1
select c."id", c."first_name", c."last_name", c."email"
from "ContactsToOpportunities" j join "crm_Contacts" c on c."id" = j."contact_id" where j."opportunity_id" = $1;

-- the opportunities that close next
select "id", "name", "account", "close_date" from "crm_Opportunities" where "close_date" >= '2025-01-01'
order by "close_date" limit 50;

-- the contracts that end within a month
select "id", "title", "account", "endDate" from "crm_Contracts" where "endDate" >= '2025-05-01' and "endDate" < '2025-06-01';

-- a board with its user
-- $1 = select "id" from "Boards" order by "id" limit 1
select b.*, u."name" as user_name from "Boards" b join "Users" u on u."id" = b."user" where b."id" = $1;

-- the sections of a board, in their order
-- $1 = select "board" from "Sections" order by "id" limit 1
select "id", "title", "position" from "Sections" where "board" = $1 order by "position";

-- the tasks of a section, in their order
-- $1 = select "section" from "Tasks" where "section" is not null order by "id" limit 1
select "id", "title", "priority", "taskStatus", "dueDateAt" from "Tasks" where "section" = $1 order by "position" desc;

-- who watches a board
-- $1 = select "board_id" from "BoardWatchers" order by 1 limit 1
select u."id", u."name" from "BoardWatchers" w join "Users" u on u."id" = w."user_id" where w."board_id" = $1;

-- the tasks of a user that are past due
-- $1 = select "user" from "Tasks" where "user" is not null order by "id" limit 1
select "id", "title", "dueDateAt" from "Tasks"
where "user" = $1 and "dueDateAt" <= '2025-01-01' and "taskStatus" <> 'COMPLETE';

-- the comments on a task, with who wrote them
-- $1 = select "task" from "tasksComments" where "task" is not null order by "id" limit 1
select c."id", c."comment", c."createdAt", u."name", u."avatar"
from "tasksComments" c join "Users" u on u."id" = c."user" where c."task" = $1 order by c."createdAt";

-- the comments on an account's task
-- $1 = select "assigned_crm_account_task" from "tasksComments" where "assigned_crm_account_task" is not null order by "id" limit 1
select c."id", c."comment", c."createdAt", u."name"
from "tasksComments" c join "Users" u on u."id" = c."user" where c."assigned_crm_account_task" = $1;

-- the documents of a task
-- $1 = select "task_id" from "DocumentsToTasks" order by 1 limit 1
select d."id", d."document_name", d."document_file_url"
from "DocumentsToTasks" j join "Documents" d on d."id" = j."document_id" where j."task_id" = $1;

-- what a document is attached to: invoices, opportunities, contacts, leads, tasks of accounts
-- $1 = select "document_id" from "DocumentsToInvoices" order by 1 limit 1
select 'invoice' as kind, "invoice_id" as id from "DocumentsToInvoices" where "document_id" = $1
union all select 'opportunity', "opportunity_id" from "DocumentsToOpportunities" where "document_id" = $1
union all select 'contact', "contact_id" from "DocumentsToContacts" where "document_id" = $1
union all select 'lead', "lead_id" from "DocumentsToLeads" where "document_id" = $1
union all select 'account task', "crm_accounts_task_id" from "DocumentsToCrmAccountsTasks" where "document_id" = $1;

-- the newest documents
select "id", "document_name", "document_system_type", "createdAt" from "Documents" order by "createdAt" desc nulls first limit 50;

-- an invoice with its state, its user and its account
-- $1 = select "id" from "Invoices" order by "id" limit 1
select i.*, s."name" as state, u."name" as user_name, a."name" as account_name
from "Invoices" i
left join "invoice_States" s on s."id" = i."invoice_state_id"
left join "Users" u on u."id" = i."assigned_user_id"
left join "crm_Accounts" a on a."id" = i."assigned_account_id"
where i."id" = $1;

-- the invoices that are due in a week
select "id", "invoice_number", "partner", "date_due" from "Invoices"
where "date_due" >= '2025-03-03' and "date_due" < '2025-03-10' order by "date_due";

-- the files of an invoice
-- $1 = select "invoice_id" from "DocumentsToInvoices" order by 1 limit 1
select d."id", d."document_name", d."document_file_url"
from "DocumentsToInvoices" j join "Documents" d on d."id" = j."document_id" where j."invoice_id" = $1;

-- the keys of a user
-- $1 = select "user" from "openAi_keys" order by "id" limit 1
select "id", "organization_id" from "openAi_keys" where "user" = $1;
