-- NextCRM's PostgreSQL tables, as its own migrations make them: rowstream fills them and leaves their shape alone.
--
-- Nothing here knows of MongoDB: `id` is a uuid that the application makes, and there is no column for the old
-- ObjectId. Names are in upper and lower case, as the application's models are, and stand in quotes.

create type "crm_Lead_Status" as enum ('NEW', 'CONTACTED', 'QUALIFIED', 'LOST');
create type "crm_Lead_Type" as enum ('DEMO');
create type "crm_Opportunity_Status" as enum ('ACTIVE', 'INACTIVE', 'PENDING', 'CLOSED');
create type "crm_Contact_Type" as enum ('Customer', 'Partner', 'Vendor', 'Prospect');
create type "crm_Contracts_Status" as enum ('NOTSTARTED', 'INPROGRESS', 'SIGNED');
create type "DocumentSystemType" as enum ('INVOICE', 'RECEIPT', 'CONTRACT', 'OFFER', 'OTHER');
create type "taskStatus" as enum ('ACTIVE', 'PENDING', 'COMPLETE');
create type "ActiveStatus" as enum ('ACTIVE', 'INACTIVE', 'PENDING');
create type "Language" as enum ('cz', 'en', 'de', 'uk');
create type "gptStatus" as enum ('ACTIVE', 'INACTIVE');

create table "crm_Accounts" (
    "id" uuid primary key,
    "__v" integer not null,
    "createdAt" timestamp(3) not null default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "annual_revenue" text,
    "assigned_to" uuid,
    "billing_city" text,
    "billing_country" text,
    "billing_postal_code" text,
    "billing_state" text,
    "billing_street" text,
    "company_id" text,
    "description" text,
    "email" text,
    "employees" text,
    "fax" text,
    "industry" uuid,
    "member_of" text,
    "name" text not null,
    "office_phone" text,
    "shipping_city" text,
    "shipping_country" text,
    "shipping_postal_code" text,
    "shipping_state" text,
    "shipping_street" text,
    "status" text default 'Inactive',
    "type" text default 'Customer',
    "vat" text,
    "website" text
);
create index "crm_Accounts_assigned_to_idx" on "crm_Accounts" ("assigned_to");
create index "crm_Accounts_industry_idx" on "crm_Accounts" ("industry");
create index "crm_Accounts_createdBy_idx" on "crm_Accounts" ("createdBy");
create index "crm_Accounts_updatedBy_idx" on "crm_Accounts" ("updatedBy");
create index "crm_Accounts_status_idx" on "crm_Accounts" ("status");
create index "crm_Accounts_type_idx" on "crm_Accounts" ("type");
create index "crm_Accounts_createdAt_idx" on "crm_Accounts" ("createdAt");

create table "crm_Leads" (
    "id" uuid primary key,
    "__v" integer not null default 0,
    "createdAt" timestamp(3) default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "firstName" text,
    "lastName" text not null,
    "company" text,
    "jobTitle" text,
    "email" text,
    "phone" text,
    "description" text,
    "lead_source" text,
    "refered_by" text,
    "campaign" text,
    "status" text default 'NEW',
    "type" text default 'DEMO',
    "assigned_to" uuid,
    "accountsIDs" uuid
);
create index "crm_Leads_assigned_to_idx" on "crm_Leads" ("assigned_to");
create index "crm_Leads_accountsIDs_idx" on "crm_Leads" ("accountsIDs");
create index "crm_Leads_createdBy_idx" on "crm_Leads" ("createdBy");
create index "crm_Leads_updatedBy_idx" on "crm_Leads" ("updatedBy");
create index "crm_Leads_status_idx" on "crm_Leads" ("status");
create index "crm_Leads_type_idx" on "crm_Leads" ("type");
create index "crm_Leads_createdAt_idx" on "crm_Leads" ("createdAt");

create table "crm_Opportunities" (
    "id" uuid primary key,
    "__v" integer not null default 0,
    "account" uuid,
    "assigned_to" uuid,
    "budget" integer not null default 0,
    "campaign" uuid,
    "close_date" timestamp(3),
    "contact" uuid,
    "created_by" uuid,
    "createdBy" uuid,
    "created_on" timestamp(3) default current_timestamp,
    "createdAt" timestamp(3) not null default current_timestamp,
    "last_activity" timestamp(3),
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "last_activity_by" uuid,
    "currency" text,
    "description" text,
    "expected_revenue" integer not null default 0,
    "name" text,
    "next_step" text,
    "sales_stage" uuid,
    "type" uuid,
    "status" "crm_Opportunity_Status" default 'ACTIVE'
);
create index "crm_Opportunities_account_idx" on "crm_Opportunities" ("account");
create index "crm_Opportunities_assigned_to_idx" on "crm_Opportunities" ("assigned_to");
create index "crm_Opportunities_campaign_idx" on "crm_Opportunities" ("campaign");
create index "crm_Opportunities_contact_idx" on "crm_Opportunities" ("contact");
create index "crm_Opportunities_created_by_idx" on "crm_Opportunities" ("created_by");
create index "crm_Opportunities_sales_stage_idx" on "crm_Opportunities" ("sales_stage");
create index "crm_Opportunities_type_idx" on "crm_Opportunities" ("type");
create index "crm_Opportunities_status_idx" on "crm_Opportunities" ("status");
create index "crm_Opportunities_createdAt_idx" on "crm_Opportunities" ("createdAt");
create index "crm_Opportunities_close_date_idx" on "crm_Opportunities" ("close_date");
create index "crm_Opportunities_status_sales_stage_idx" on "crm_Opportunities" ("status", "sales_stage");

create table "crm_campaigns" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null,
    "description" text,
    "status" text
);

create table "crm_Opportunities_Sales_Stages" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null,
    "probability" integer,
    "order" integer
);

create table "crm_Opportunities_Type" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null,
    "order" integer
);

create table "crm_Contacts" (
    "id" uuid primary key,
    "__v" integer not null default 0,
    "account" uuid,
    "assigned_to" uuid,
    "birthday" text,
    "created_by" uuid,
    "createdBy" uuid,
    "created_on" timestamp(3) default current_timestamp,
    "cratedAt" timestamp(3) default current_timestamp,
    "last_activity" timestamp(3) default current_timestamp,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "last_activity_by" uuid,
    "description" text,
    "email" text,
    "personal_email" text,
    "first_name" text,
    "last_name" text not null,
    "office_phone" text,
    "mobile_phone" text,
    "website" text,
    "position" text,
    "status" boolean not null default true,
    "social_twitter" text,
    "social_facebook" text,
    "social_linkedin" text,
    "social_skype" text,
    "social_instagram" text,
    "social_youtube" text,
    "social_tiktok" text,
    "type" text default 'Customer',
    "tags" text[],
    "notes" text[],
    "accountsIDs" uuid
);
create index "crm_Contacts_assigned_to_idx" on "crm_Contacts" ("assigned_to");
create index "crm_Contacts_created_by_idx" on "crm_Contacts" ("created_by");
create index "crm_Contacts_accountsIDs_idx" on "crm_Contacts" ("accountsIDs");
create index "crm_Contacts_createdBy_idx" on "crm_Contacts" ("createdBy");
create index "crm_Contacts_updatedBy_idx" on "crm_Contacts" ("updatedBy");
create index "crm_Contacts_status_idx" on "crm_Contacts" ("status");
create index "crm_Contacts_type_idx" on "crm_Contacts" ("type");
create index "crm_Contacts_cratedAt_idx" on "crm_Contacts" ("cratedAt");
create index "crm_Contacts_last_activity_idx" on "crm_Contacts" ("last_activity");

create table "crm_Contracts" (
    "id" uuid primary key,
    "__v" integer not null,
    "title" text not null,
    "value" integer not null,
    "startDate" timestamp(3) default current_timestamp,
    "endDate" timestamp(3),
    "renewalReminderDate" timestamp(3),
    "customerSignedDate" timestamp(3),
    "companySignedDate" timestamp(3),
    "description" text,
    "account" uuid,
    "assigned_to" uuid,
    "createdAt" timestamp(3) default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "status" "crm_Contracts_Status" not null default 'NOTSTARTED',
    "type" text
);
create index "crm_Contracts_account_idx" on "crm_Contracts" ("account");
create index "crm_Contracts_assigned_to_idx" on "crm_Contracts" ("assigned_to");
create index "crm_Contracts_createdBy_idx" on "crm_Contracts" ("createdBy");
create index "crm_Contracts_updatedBy_idx" on "crm_Contracts" ("updatedBy");
create index "crm_Contracts_status_idx" on "crm_Contracts" ("status");
create index "crm_Contracts_startDate_idx" on "crm_Contracts" ("startDate");
create index "crm_Contracts_endDate_idx" on "crm_Contracts" ("endDate");
create index "crm_Contracts_createdAt_idx" on "crm_Contracts" ("createdAt");
create index "crm_Contracts_startDate_endDate_idx" on "crm_Contracts" ("startDate", "endDate");

create table "Boards" (
    "id" uuid primary key,
    "__v" integer not null,
    "description" text not null,
    "favourite" boolean,
    "favouritePosition" integer,
    "icon" text,
    "position" integer,
    "title" text not null,
    "user" uuid not null,
    "visibility" text,
    "sharedWith" uuid[],
    "createdAt" timestamp(3) default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid
);
create index "Boards_user_idx" on "Boards" ("user");
create index "Boards_createdBy_idx" on "Boards" ("createdBy");
create index "Boards_updatedBy_idx" on "Boards" ("updatedBy");
create index "Boards_favourite_idx" on "Boards" ("favourite");
create index "Boards_visibility_idx" on "Boards" ("visibility");
create index "Boards_createdAt_idx" on "Boards" ("createdAt");
create index "Boards_user_favourite_idx" on "Boards" ("user", "favourite");

create table "Employees" (
    "id" uuid primary key,
    "__v" integer not null,
    "avatar" text not null,
    "email" text,
    "name" text not null,
    "salary" integer not null,
    "status" text not null
);

create table "ImageUpload" (
    "id" uuid primary key
);

create table "MyAccount" (
    "id" uuid primary key,
    "__v" integer not null,
    "company_name" text not null,
    "is_person" boolean not null default false,
    "email" text,
    "email_accountant" text,
    "phone_prefix" text,
    "phone" text,
    "mobile_prefix" text,
    "mobile" text,
    "fax_prefix" text,
    "fax" text,
    "website" text,
    "street" text,
    "city" text,
    "state" text,
    "zip" text,
    "country" text,
    "country_code" text,
    "billing_street" text,
    "billing_city" text,
    "billing_state" text,
    "billing_zip" text,
    "billing_country" text,
    "billing_country_code" text,
    "currency" text,
    "currency_symbol" text,
    "VAT_number" text not null,
    "TAX_number" text,
    "bank_name" text,
    "bank_account" text,
    "bank_code" text,
    "bank_IBAN" text,
    "bank_SWIFT" text
);

create table "Invoices" (
    "id" uuid primary key,
    "__v" integer,
    "date_created" timestamp(3) not null default current_timestamp,
    "last_updated" timestamp(3) not null,
    "last_updated_by" uuid,
    "date_received" timestamp(3) default current_timestamp,
    "date_of_case" timestamp(3),
    "date_tax" timestamp(3),
    "date_due" timestamp(3),
    "description" text,
    "document_type" text,
    "favorite" boolean default false,
    "variable_symbol" text,
    "constant_symbol" text,
    "specific_symbol" text,
    "order_number" text,
    "internal_number" text,
    "invoice_number" text,
    "invoice_amount" text,
    "invoice_file_mimeType" text not null,
    "invoice_file_url" text not null,
    "invoice_items" jsonb,
    "invoice_type" text,
    "invoice_currency" text,
    "invoice_language" text,
    "partner" text,
    "partner_street" text,
    "partner_city" text,
    "partner_zip" text,
    "partner_country" text,
    "partner_country_code" text,
    "partner_business_street" text,
    "partner_business_city" text,
    "partner_business_zip" text,
    "partner_business_country" text,
    "partner_business_country_code" text,
    "partner_VAT_number" text,
    "partner_TAX_number" text,
    "partner_TAX_local_number" text,
    "partner_phone_prefix" text,
    "partner_phone_number" text,
    "partner_fax_prefix" text,
    "partner_fax_number" text,
    "partner_email" text,
    "partner_website" text,
    "partner_is_person" boolean,
    "partner_bank" text,
    "partner_account_number" text,
    "partner_account_bank_number" text,
    "partner_IBAN" text,
    "partner_SWIFT" text,
    "partner_BIC" text,
    "rossum_status" text,
    "rossum_annotation_id" text,
    "rossum_annotation_url" text,
    "rossum_document_id" text,
    "rossum_document_url" text,
    "rossum_annotation_json_url" text,
    "rossum_annotation_xml_url" text,
    "money_s3_url" text,
    "status" text,
    "invoice_state_id" uuid,
    "assigned_user_id" uuid,
    "assigned_account_id" uuid,
    "visibility" boolean not null default true
);
create index "Invoices_invoice_state_id_idx" on "Invoices" ("invoice_state_id");
create index "Invoices_assigned_user_id_idx" on "Invoices" ("assigned_user_id");
create index "Invoices_assigned_account_id_idx" on "Invoices" ("assigned_account_id");
create index "Invoices_last_updated_by_idx" on "Invoices" ("last_updated_by");
create index "Invoices_status_idx" on "Invoices" ("status");
create index "Invoices_invoice_type_idx" on "Invoices" ("invoice_type");
create index "Invoices_date_created_idx" on "Invoices" ("date_created");
create index "Invoices_date_due_idx" on "Invoices" ("date_due");
create index "Invoices_favorite_idx" on "Invoices" ("favorite");
create index "Invoices_status_date_created_idx" on "Invoices" ("status", "date_created");

create table "invoice_States" (
    "id" uuid primary key,
    "name" text not null
);

create table "Documents" (
    "id" uuid primary key,
    "__v" integer,
    "date_created" timestamp(3) default current_timestamp,
    "createdAt" timestamp(3) default current_timestamp,
    "last_updated" timestamp(3),
    "updatedAt" timestamp(3),
    "document_name" text not null,
    "created_by_user" uuid,
    "createdBy" uuid,
    "description" text,
    "document_type" uuid,
    "favourite" boolean,
    "document_file_mimeType" text not null,
    "document_file_url" text not null,
    "status" text,
    "visibility" text,
    "tags" jsonb,
    "key" text,
    "size" integer,
    "assigned_user" uuid,
    "connected_documents" text[],
    "document_system_type" "DocumentSystemType" default 'OTHER'
);
create index "Documents_created_by_user_idx" on "Documents" ("created_by_user");
create index "Documents_assigned_user_idx" on "Documents" ("assigned_user");
create index "Documents_document_type_idx" on "Documents" ("document_type");
create index "Documents_createdBy_idx" on "Documents" ("createdBy");
create index "Documents_status_idx" on "Documents" ("status");
create index "Documents_visibility_idx" on "Documents" ("visibility");
create index "Documents_favourite_idx" on "Documents" ("favourite");
create index "Documents_createdAt_idx" on "Documents" ("createdAt");
create index "Documents_document_system_type_idx" on "Documents" ("document_system_type");

create table "Documents_Types" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null
);

create table "Sections" (
    "id" uuid primary key,
    "__v" integer not null,
    "board" uuid not null,
    "title" text not null,
    "position" integer
);
create index "Sections_board_idx" on "Sections" ("board");

create table "crm_Industry_Type" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null
);

create table "modulStatus" (
    "id" uuid primary key,
    "name" text not null,
    "isVisible" boolean not null
);

create table "Tasks" (
    "id" uuid primary key,
    "__v" integer not null,
    "content" text,
    "createdAt" timestamp(3) default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "dueDateAt" timestamp(3) default current_timestamp,
    "lastEditedAt" timestamp(3) default current_timestamp,
    "position" integer not null,
    "priority" text not null,
    "section" uuid,
    "tags" jsonb,
    "title" text not null,
    "likes" integer default 0,
    "user" uuid,
    "taskStatus" "taskStatus" default 'ACTIVE'
);
create index "Tasks_user_idx" on "Tasks" ("user");
create index "Tasks_section_idx" on "Tasks" ("section");
create index "Tasks_createdBy_idx" on "Tasks" ("createdBy");
create index "Tasks_updatedBy_idx" on "Tasks" ("updatedBy");
create index "Tasks_priority_idx" on "Tasks" ("priority");
create index "Tasks_taskStatus_idx" on "Tasks" ("taskStatus");
create index "Tasks_dueDateAt_idx" on "Tasks" ("dueDateAt");
create index "Tasks_createdAt_idx" on "Tasks" ("createdAt");
create index "Tasks_user_taskStatus_idx" on "Tasks" ("user", "taskStatus");

create table "crm_Accounts_Tasks" (
    "id" uuid primary key,
    "__v" integer not null,
    "content" text,
    "createdAt" timestamp(3) default current_timestamp,
    "createdBy" uuid,
    "updatedAt" timestamp(3),
    "updatedBy" uuid,
    "dueDateAt" timestamp(3) default current_timestamp,
    "priority" text not null,
    "tags" jsonb,
    "title" text not null,
    "likes" integer default 0,
    "user" uuid,
    "account" uuid,
    "taskStatus" "taskStatus" default 'ACTIVE'
);
create index "crm_Accounts_Tasks_user_idx" on "crm_Accounts_Tasks" ("user");
create index "crm_Accounts_Tasks_account_idx" on "crm_Accounts_Tasks" ("account");
create index "crm_Accounts_Tasks_createdBy_idx" on "crm_Accounts_Tasks" ("createdBy");
create index "crm_Accounts_Tasks_updatedBy_idx" on "crm_Accounts_Tasks" ("updatedBy");
create index "crm_Accounts_Tasks_priority_idx" on "crm_Accounts_Tasks" ("priority");
create index "crm_Accounts_Tasks_taskStatus_idx" on "crm_Accounts_Tasks" ("taskStatus");
create index "crm_Accounts_Tasks_dueDateAt_idx" on "crm_Accounts_Tasks" ("dueDateAt");
create index "crm_Accounts_Tasks_createdAt_idx" on "crm_Accounts_Tasks" ("createdAt");
create index "crm_Accounts_Tasks_account_taskStatus_idx" on "crm_Accounts_Tasks" ("account", "taskStatus");

create table "tasksComments" (
    "id" uuid primary key,
    "__v" integer not null,
    "comment" text not null,
    "createdAt" timestamp(3) not null default current_timestamp,
    "task" uuid not null,
    "user" uuid not null,
    "assigned_crm_account_task" uuid
);
create index "tasksComments_task_idx" on "tasksComments" ("task");
create index "tasksComments_user_idx" on "tasksComments" ("user");
create index "tasksComments_assigned_crm_account_task_idx" on "tasksComments" ("assigned_crm_account_task");

create table "TodoList" (
    "id" uuid primary key,
    "createdAt" text not null,
    "description" text not null,
    "title" text not null,
    "url" text not null,
    "user" text not null
);

create table "Users" (
    "id" uuid primary key,
    "__v" integer not null default 0,
    "account_name" text,
    "avatar" text,
    "email" text not null,
    "is_account_admin" boolean not null default false,
    "is_admin" boolean not null default false,
    "created_on" timestamp(3) not null default current_timestamp,
    "lastLoginAt" timestamp(3),
    "name" text,
    "password" text,
    "username" text,
    "userStatus" "ActiveStatus" not null default 'PENDING',
    "userLanguage" "Language" not null default 'en'
);
create index "Users_email_idx" on "Users" ("email");
create index "Users_userStatus_idx" on "Users" ("userStatus");
create index "Users_userLanguage_idx" on "Users" ("userLanguage");
create index "Users_is_admin_idx" on "Users" ("is_admin");
create index "Users_is_account_admin_idx" on "Users" ("is_account_admin");
create index "Users_created_on_idx" on "Users" ("created_on");
create index "Users_lastLoginAt_idx" on "Users" ("lastLoginAt");
create unique index "Users_email_key" on "Users" ("email");

create table "system_Modules_Enabled" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null,
    "enabled" boolean not null,
    "position" integer not null
);

create table "secondBrain_notions" (
    "id" uuid primary key,
    "__v" integer not null,
    "user" uuid not null,
    "notion_api_key" text not null,
    "notion_db_id" text not null
);
create index "secondBrain_notions_user_idx" on "secondBrain_notions" ("user");

create table "openAi_keys" (
    "id" uuid primary key,
    "__v" integer not null,
    "user" uuid not null,
    "organization_id" text not null,
    "api_key" text not null
);
create index "openAi_keys_user_idx" on "openAi_keys" ("user");

create table "systemServices" (
    "id" uuid primary key,
    "__v" integer not null,
    "name" text not null,
    "serviceUrl" text,
    "serviceId" text,
    "serviceKey" text,
    "servicePassword" text,
    "servicePort" text,
    "description" text
);

create table "gpt_models" (
    "id" uuid primary key,
    "__v" integer not null,
    "model" text not null,
    "description" text,
    "status" "gptStatus",
    "created_on" timestamp(3) default current_timestamp
);

create table "DocumentsToInvoices" (
    "document_id" uuid not null,
    "invoice_id" uuid not null,
    primary key ("document_id", "invoice_id")
);
create index "DocumentsToInvoices_document_id_idx" on "DocumentsToInvoices" ("document_id");
create index "DocumentsToInvoices_invoice_id_idx" on "DocumentsToInvoices" ("invoice_id");

create table "DocumentsToOpportunities" (
    "document_id" uuid not null,
    "opportunity_id" uuid not null,
    primary key ("document_id", "opportunity_id")
);
create index "DocumentsToOpportunities_document_id_idx" on "DocumentsToOpportunities" ("document_id");
create index "DocumentsToOpportunities_opportunity_id_idx" on "DocumentsToOpportunities" ("opportunity_id");

create table "DocumentsToContacts" (
    "document_id" uuid not null,
    "contact_id" uuid not null,
    primary key ("document_id", "contact_id")
);
create index "DocumentsToContacts_document_id_idx" on "DocumentsToContacts" ("document_id");
create index "DocumentsToContacts_contact_id_idx" on "DocumentsToContacts" ("contact_id");

create table "DocumentsToTasks" (
    "document_id" uuid not null,
    "task_id" uuid not null,
    primary key ("document_id", "task_id")
);
create index "DocumentsToTasks_document_id_idx" on "DocumentsToTasks" ("document_id");
create index "DocumentsToTasks_task_id_idx" on "DocumentsToTasks" ("task_id");

create table "DocumentsToCrmAccountsTasks" (
    "document_id" uuid not null,
    "crm_accounts_task_id" uuid not null,
    primary key ("document_id", "crm_accounts_task_id")
);
create index "DocumentsToCrmAccountsTasks_document_id_idx" on "DocumentsToCrmAccountsTasks" ("document_id");
create index "DocumentsToCrmAccountsTasks_crm_accounts_task_id_idx" on "DocumentsToCrmAccountsTasks" ("crm_accounts_task_id");

create table "DocumentsToLeads" (
    "document_id" uuid not null,
    "lead_id" uuid not null,
    primary key ("document_id", "lead_id")
);
create index "DocumentsToLeads_document_id_idx" on "DocumentsToLeads" ("document_id");
create index "DocumentsToLeads_lead_id_idx" on "DocumentsToLeads" ("lead_id");

create table "DocumentsToAccounts" (
    "document_id" uuid not null,
    "account_id" uuid not null,
    primary key ("document_id", "account_id")
);
create index "DocumentsToAccounts_document_id_idx" on "DocumentsToAccounts" ("document_id");
create index "DocumentsToAccounts_account_id_idx" on "DocumentsToAccounts" ("account_id");

create table "AccountWatchers" (
    "account_id" uuid not null,
    "user_id" uuid not null,
    primary key ("account_id", "user_id")
);
create index "AccountWatchers_account_id_idx" on "AccountWatchers" ("account_id");
create index "AccountWatchers_user_id_idx" on "AccountWatchers" ("user_id");

create table "BoardWatchers" (
    "board_id" uuid not null,
    "user_id" uuid not null,
    primary key ("board_id", "user_id")
);
create index "BoardWatchers_board_id_idx" on "BoardWatchers" ("board_id");
create index "BoardWatchers_user_id_idx" on "BoardWatchers" ("user_id");

create table "ContactsToOpportunities" (
    "contact_id" uuid not null,
    "opportunity_id" uuid not null,
    primary key ("contact_id", "opportunity_id")
);
create index "ContactsToOpportunities_contact_id_idx" on "ContactsToOpportunities" ("contact_id");
create index "ContactsToOpportunities_opportunity_id_idx" on "ContactsToOpportunities" ("opportunity_id");

alter table "crm_Accounts" add constraint "crm_Accounts_assigned_to_fkey" foreign key ("assigned_to")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Accounts" add constraint "crm_Accounts_industry_fkey" foreign key ("industry")
    references "crm_Industry_Type" ("id") on delete set null on update cascade;
alter table "crm_Leads" add constraint "crm_Leads_assigned_to_fkey" foreign key ("assigned_to")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Leads" add constraint "crm_Leads_accountsIDs_fkey" foreign key ("accountsIDs")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_account_fkey" foreign key ("account")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_assigned_to_fkey" foreign key ("assigned_to")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_campaign_fkey" foreign key ("campaign")
    references "crm_campaigns" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_created_by_fkey" foreign key ("created_by")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_sales_stage_fkey" foreign key ("sales_stage")
    references "crm_Opportunities_Sales_Stages" ("id") on delete set null on update cascade;
alter table "crm_Opportunities" add constraint "crm_Opportunities_type_fkey" foreign key ("type")
    references "crm_Opportunities_Type" ("id") on delete set null on update cascade;
alter table "crm_Contacts" add constraint "crm_Contacts_assigned_to_fkey" foreign key ("assigned_to")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Contacts" add constraint "crm_Contacts_created_by_fkey" foreign key ("created_by")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Contacts" add constraint "crm_Contacts_accountsIDs_fkey" foreign key ("accountsIDs")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "crm_Contracts" add constraint "crm_Contracts_account_fkey" foreign key ("account")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "crm_Contracts" add constraint "crm_Contracts_assigned_to_fkey" foreign key ("assigned_to")
    references "Users" ("id") on delete set null on update cascade;
alter table "Boards" add constraint "Boards_user_fkey" foreign key ("user")
    references "Users" ("id") on delete restrict on update cascade;
alter table "Invoices" add constraint "Invoices_invoice_state_id_fkey" foreign key ("invoice_state_id")
    references "invoice_States" ("id") on delete set null on update cascade;
alter table "Invoices" add constraint "Invoices_assigned_user_id_fkey" foreign key ("assigned_user_id")
    references "Users" ("id") on delete set null on update cascade;
alter table "Invoices" add constraint "Invoices_assigned_account_id_fkey" foreign key ("assigned_account_id")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "Documents" add constraint "Documents_created_by_user_fkey" foreign key ("created_by_user")
    references "Users" ("id") on delete set null on update cascade;
alter table "Documents" add constraint "Documents_document_type_fkey" foreign key ("document_type")
    references "Documents_Types" ("id") on delete set null on update cascade;
alter table "Documents" add constraint "Documents_assigned_user_fkey" foreign key ("assigned_user")
    references "Users" ("id") on delete set null on update cascade;
alter table "Sections" add constraint "Sections_board_fkey" foreign key ("board")
    references "Boards" ("id") on delete restrict on update cascade;
alter table "Tasks" add constraint "Tasks_section_fkey" foreign key ("section")
    references "Sections" ("id") on delete set null on update cascade;
alter table "Tasks" add constraint "Tasks_user_fkey" foreign key ("user")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Accounts_Tasks" add constraint "crm_Accounts_Tasks_user_fkey" foreign key ("user")
    references "Users" ("id") on delete set null on update cascade;
alter table "crm_Accounts_Tasks" add constraint "crm_Accounts_Tasks_account_fkey" foreign key ("account")
    references "crm_Accounts" ("id") on delete set null on update cascade;
alter table "tasksComments" add constraint "tasksComments_task_fkey" foreign key ("task")
    references "Tasks" ("id") on delete cascade on update cascade;
alter table "tasksComments" add constraint "tasksComments_user_fkey" foreign key ("user")
    references "Users" ("id") on delete restrict on update cascade;
alter table "tasksComments" add constraint "tasksComments_assigned_crm_account_task_fkey" foreign key ("assigned_crm_account_task")
    references "crm_Accounts_Tasks" ("id") on delete set null on update cascade;
alter table "secondBrain_notions" add constraint "secondBrain_notions_user_fkey" foreign key ("user")
    references "Users" ("id") on delete restrict on update cascade;
alter table "openAi_keys" add constraint "openAi_keys_user_fkey" foreign key ("user")
    references "Users" ("id") on delete restrict on update cascade;
alter table "DocumentsToInvoices" add constraint "DocumentsToInvoices_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToInvoices" add constraint "DocumentsToInvoices_invoice_id_fkey" foreign key ("invoice_id")
    references "Invoices" ("id") on delete cascade on update cascade;
alter table "DocumentsToOpportunities" add constraint "DocumentsToOpportunities_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToOpportunities" add constraint "DocumentsToOpportunities_opportunity_id_fkey" foreign key ("opportunity_id")
    references "crm_Opportunities" ("id") on delete cascade on update cascade;
alter table "DocumentsToContacts" add constraint "DocumentsToContacts_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToContacts" add constraint "DocumentsToContacts_contact_id_fkey" foreign key ("contact_id")
    references "crm_Contacts" ("id") on delete cascade on update cascade;
alter table "DocumentsToTasks" add constraint "DocumentsToTasks_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToTasks" add constraint "DocumentsToTasks_task_id_fkey" foreign key ("task_id")
    references "Tasks" ("id") on delete cascade on update cascade;
alter table "DocumentsToCrmAccountsTasks" add constraint "DocumentsToCrmAccountsTasks_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToCrmAccountsTasks" add constraint "DocumentsToCrmAccountsTasks_crm_accounts_task_id_fkey" foreign key ("crm_accounts_task_id")
    references "crm_Accounts_Tasks" ("id") on delete cascade on update cascade;
alter table "DocumentsToLeads" add constraint "DocumentsToLeads_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToLeads" add constraint "DocumentsToLeads_lead_id_fkey" foreign key ("lead_id")
    references "crm_Leads" ("id") on delete cascade on update cascade;
alter table "DocumentsToAccounts" add constraint "DocumentsToAccounts_document_id_fkey" foreign key ("document_id")
    references "Documents" ("id") on delete cascade on update cascade;
alter table "DocumentsToAccounts" add constraint "DocumentsToAccounts_account_id_fkey" foreign key ("account_id")
    references "crm_Accounts" ("id") on delete cascade on update cascade;
alter table "AccountWatchers" add constraint "AccountWatchers_account_id_fkey" foreign key ("account_id")
    references "crm_Accounts" ("id") on delete cascade on update cascade;
alter table "AccountWatchers" add constraint "AccountWatchers_user_id_fkey" foreign key ("user_id")
    references "Users" ("id") on delete cascade on update cascade;
alter table "BoardWatchers" add constraint "BoardWatchers_board_id_fkey" foreign key ("board_id")
    references "Boards" ("id") on delete cascade on update cascade;
alter table "BoardWatchers" add constraint "BoardWatchers_user_id_fkey" foreign key ("user_id")
    references "Users" ("id") on delete cascade on update cascade;
alter table "ContactsToOpportunities" add constraint "ContactsToOpportunities_contact_id_fkey" foreign key ("contact_id")
    references "crm_Contacts" ("id") on delete cascade on update cascade;
alter table "ContactsToOpportunities" add constraint "ContactsToOpportunities_opportunity_id_fkey" foreign key ("opportunity_id")
    references "crm_Opportunities" ("id") on delete cascade on update cascade;

-- Of a later migration: a comment on an account's task has no "task", but an "assigned_crm_account_task".
alter table "tasksComments" alter column "task" drop not null;
