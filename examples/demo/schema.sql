-- The expense tracker's table, as its application made it: rowstream fills it and leaves its shape alone.

create type transaction_source as enum ('venmo', 'splitwise', 'stripe', 'cash', 'manual');

create table transactions (
    id varchar(255) primary key,
    source transaction_source not null,
    -- The _id in MongoDB, as text: a number means something only together with its source.
    source_id varchar(255) not null,
    -- The document as it was, without its _id.
    source_data jsonb not null,
    transaction_date timestamptz not null,
    imported_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    unique (source, source_id)
);

create index transactions_transaction_date on transactions (transaction_date);
