-- An expense tracker's tables, as the application's own migrations make them: rowstream fills them and leaves
-- their shape alone. Ids are text, a prefix and a ULID. Defaults are the application's, not the tables'.

create type payment_method_type as enum ('bank', 'credit', 'venmo', 'splitwise', 'cash');
create type transaction_source as enum ('venmo', 'splitwise', 'stripe', 'cash', 'manual');

create table categories (
    id varchar(255) primary key,
    name varchar(100) not null unique,
    mongo_id varchar(255),
    is_active boolean,
    created_at timestamptz,
    updated_at timestamptz
);
create index ix_categories_mongo_id on categories (mongo_id);

create table payment_methods (
    id varchar(255) primary key,
    name varchar(100) not null unique,
    type payment_method_type not null,
    external_id varchar(255),
    -- Every id that the bank's account had: linked again, it gets another.
    aliases json,
    is_active boolean,
    created_at timestamptz,
    updated_at timestamptz
);

create table tags (
    id varchar(255) primary key,
    name varchar(100) not null unique,
    created_at timestamptz,
    updated_at timestamptz
);

create table transactions (
    id varchar(255) primary key,
    source transaction_source not null,
    -- The _id in MongoDB, as text: a number means something only together with its source.
    source_id varchar(255) not null,
    -- The document as it was, without its _id.
    source_data jsonb not null,
    transaction_date timestamptz not null,
    imported_at timestamptz,
    created_at timestamptz,
    constraint uq_transaction_source unique (source, source_id)
);

create table line_items (
    id varchar(255) primary key,
    transaction_id varchar(255) not null references transactions (id) on delete cascade,
    mongo_id varchar(255),
    date timestamptz not null,
    amount decimal(12,2) not null,
    description text not null,
    payment_method_id varchar(255) not null references payment_methods (id) on delete restrict,
    responsible_party varchar(255),
    notes text,
    created_at timestamptz,
    updated_at timestamptz
);
-- Not of its migrations, where this index is not unique: it is the key by which rowstream knows a row.
create unique index ix_line_items_mongo_id on line_items (mongo_id);

create table events (
    id varchar(255) primary key,
    mongo_id varchar(255) constraint uq_events_mongo_id unique,
    date timestamptz not null,
    description text not null,
    category_id varchar(255) not null references categories (id) on delete restrict,
    is_duplicate boolean,
    created_at timestamptz,
    updated_at timestamptz
);

create table event_line_items (
    id varchar(255) primary key,
    event_id varchar(255) not null references events (id) on delete cascade,
    line_item_id varchar(255) not null references line_items (id) on delete cascade,
    created_at timestamptz,
    constraint uq_event_line_item unique (event_id, line_item_id)
);

create table event_tags (
    id varchar(255) primary key,
    event_id varchar(255) not null references events (id) on delete cascade,
    tag_id varchar(255) not null references tags (id) on delete cascade,
    created_at timestamptz,
    constraint uq_event_tag unique (event_id, tag_id)
);

create table bank_accounts (
    id varchar(255) primary key,
    mongo_id varchar(255),
    institution_name varchar(255) not null,
    display_name varchar(255) not null,
    last4 varchar(4) not null,
    status varchar(50) not null,
    created_at timestamptz,
    updated_at timestamptz
);
create unique index ix_bank_accounts_mongo_id on bank_accounts (mongo_id);

create table users (
    id varchar(255) primary key,
    mongo_id varchar(255),
    first_name varchar(255) not null,
    last_name varchar(255) not null,
    email varchar(255) not null,
    password_hash varchar(255) not null,
    created_at timestamptz,
    updated_at timestamptz
);
create unique index ix_users_email on users (email);
create unique index ix_users_mongo_id on users (mongo_id);

-- Added by its later migrations, for foreign keys and for the lists that people look at.
create index ix_line_items_transaction_id on line_items (transaction_id);
create index ix_line_items_payment_method_id on line_items (payment_method_id);
create index ix_line_items_date on line_items (date);
create index ix_line_items_payment_method_date on line_items (payment_method_id, date);
create index ix_events_category_id on events (category_id);
create index ix_events_date on events (date);
create index ix_event_line_items_event_id on event_line_items (event_id);
create index ix_event_line_items_line_item_id on event_line_items (line_item_id);
create index ix_event_tags_event_id on event_tags (event_id);
create index ix_event_tags_tag_id on event_tags (tag_id);
create index ix_transactions_source_transaction_date on transactions (source, transaction_date);

-- What is in no collection: the application's own constants, which its set-up puts here.
insert into categories (id, name, is_active)
select 'cat_' || lower(name), name, true
from unnest(array['Alcohol', 'Dining', 'Entertainment', 'Forma', 'Groceries', 'Hobbies', 'Income', 'Investment',
                  'Medical', 'Rent', 'Shopping', 'Subscription', 'Transfer', 'Transit', 'Travel']) as name;
insert into payment_methods (id, name, type, is_active) values
    ('pm_venmo', 'Venmo', 'venmo', true),
    ('pm_splitwise', 'Splitwise', 'splitwise', true),
    ('pm_cash', 'Cash', 'cash', true);
