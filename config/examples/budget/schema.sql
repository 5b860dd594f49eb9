-- A household's budget, as the application's own migrations make it. rowstream fills expenses and incomes.

create table expenses (
    id serial primary key,
    date date not null,
    business varchar(255),
    category varchar(100) not null,
    amount numeric(10,2) not null,
    account varchar(100) not null,
    -- The default "₪" is the application's, not the table's.
    currency varchar(10) not null,
    notes text,
    -- Left behind by an experiment; nobody fills it.
    test_column varchar(50)
);

create table incomes (
    id serial primary key,
    date date not null,
    category varchar(100) not null,
    amount numeric(10,2) not null,
    account varchar(100) not null,
    currency varchar(10) not null,
    notes text
);

-- The application's alone: which of its two stores it reads and writes.
create table feature_flags (
    id serial primary key,
    name varchar(100) not null,
    enabled boolean not null default false,
    user_id integer,
    description text,
    constraint uq_feature_flag_name_user unique (name, user_id)
);
create index ix_feature_flags_name on feature_flags (name);
create index ix_feature_flags_user_id on feature_flags (user_id);

-- Not of its migrations: without these, its look-ups by day and by category (queries.sql) read whole tables.
create index ix_expenses_date on expenses (date);
create index ix_expenses_category on expenses (category, date);
create index ix_incomes_date on incomes (date);
create index ix_incomes_category on incomes (category, date);
