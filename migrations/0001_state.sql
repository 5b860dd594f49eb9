-- The state of rowstream. Every table is keyed by the pipeline's name: two pipelines share one database.

create table rowstream.lease (
    pipeline text primary key,
    owner text not null,
    epoch bigint not null,
    heartbeat timestamptz not null,
    paused_at timestamptz
);
comment on table rowstream.lease is
    'who may write: one owner at a time, its epoch checked in every transaction; nobody while paused_at is set; time is this server''s clock';

create table rowstream.checkpoint (
    pipeline text primary key,
    token bytea,
    cluster_time bigint not null,
    scope_hash text not null,
    epoch bigint not null,
    seq bigint not null,
    committed_at timestamptz not null
);
comment on table rowstream.checkpoint is
    'how far the change stream is applied; token is the BSON of the resume token, cluster_time is seconds << 32 | increment';

create table rowstream.mapping (
    pipeline text,
    source text,
    mapping_hash text not null,
    meaning text not null,
    id_type text not null check (id_type in ('object_id', 'string', 'int', 'uuid')),
    collection text not null,
    collection_uuid uuid,
    target text not null,
    target_oid bigint not null,
    in_scope boolean not null default true,
    snapshot_state text not null default 'pending' check (snapshot_state in ('pending', 'running', 'done')),
    planned boolean not null default false,
    documents_estimated bigint,
    snapshot_started_at timestamptz,
    snapshot_finished_at timestamptz,
    resync_since timestamptz,
    resync_cause text check (resync_cause in ('mapping', 'scope', 'table', 'history', 'command', 'reset')),
    primary key (pipeline, source)
);
comment on table rowstream.mapping is 'what is known of each mapping; planned means that every chunk has its row, in_scope that its changes were followed up to the checkpoint, meaning is what mapping_hash is made of, target_oid and collection_uuid tell the table and the collection from others of their names, resync_since that its rows are to be compared with all of its documents, and repaired';

create table rowstream.chunk (
    pipeline text,
    source text,
    number integer,
    lower bytea,
    upper bytea,
    documents bigint,
    finished_at timestamptz,
    primary key (pipeline, source, number),
    foreign key (pipeline, source) references rowstream.mapping on delete cascade
);
comment on table rowstream.chunk is
    'snapshot chunks, lower inclusive and upper exclusive in BSON order of _id, null for open; finished in the transaction that wrote the rows';

create table rowstream.held (
    pipeline text,
    source text,
    source_id text,
    id bytea not null,
    state text not null check (state in ('waiting', 'failed', 'resolved')),
    reason text not null,
    message text not null,
    column_name text,
    attempts integer not null default 1,
    first_held_at timestamptz not null default now(),
    waiting_since timestamptz,
    last_attempt_at timestamptz not null default now(),
    next_attempt_at timestamptz not null,
    resolved_at timestamptz,
    document bytea,
    document_bytes bigint,
    occupied_target text,
    occupied_columns text,
    occupied_value bytea,
    occupant bytea,
    primary key (pipeline, source, source_id)
);
comment on table rowstream.held is 'changes that could not be applied, one per document; id is the BSON type byte and value of _id, waiting_since when it began to wait for a row, which is null for all else; occupied_columns (JSON) and occupied_value the unique value that another row has, occupant that row by its key in occupied_target';
create index held_due on rowstream.held (pipeline, next_attempt_at) where state <> 'resolved';
create index held_occupied on rowstream.held (pipeline, occupied_target, occupant) where occupant is not null;
create index held_resolved on rowstream.held (pipeline, resolved_at) where state = 'resolved';

create table rowstream.wait (
    pipeline text,
    source text,
    source_id text,
    awaited text,
    awaited_key bytea,
    id bytea not null,
    stub bytea,
    due_at timestamptz,
    since timestamptz not null default now(),
    primary key (pipeline, source, source_id, awaited, awaited_key)
);
comment on table rowstream.wait is 'references that were not resolved by their first choice: (source, source_id) refers to a row that is not there, named by what is awaited and its key; due_at is when it came, stub is the key of the row made meanwhile';
create index wait_awaited on rowstream.wait (pipeline, awaited, awaited_key);
create index wait_due on rowstream.wait (pipeline) where due_at is not null;

create table rowstream.stub (
    pipeline text,
    target text,
    row_key bytea,
    row_hash text not null,
    created_at timestamptz not null default now(),
    primary key (pipeline, target, row_key)
);
comment on table rowstream.stub is 'rows made for references whose own row is not there, by their key as a COPY tuple; row_hash is md5 of the whole row as it was made';

create table rowstream.link (
    pipeline text,
    junction text,
    side text check (side in ('left', 'right')),
    lister text,
    listed text,
    lister_id bytea not null,
    listed_id bytea not null,
    primary key (pipeline, junction, side, lister, listed)
);
comment on table rowstream.link is 'which document lists which in a junction that two collections keep: lister and listed are source_ids, side is the lister''s, left that of the mapping with the junction among its children; also while one of the two has no row';
create index link_listed on rowstream.link (pipeline, junction, side, listed);

create table rowstream.left_out (
    pipeline text,
    source text,
    target text,
    source_id text,
    row_key bytea,
    primary key (pipeline, source, target, source_id, row_key)
);
comment on table rowstream.left_out is 'elements of documents that the child table target has refused where on_error: drop leaves them out: a comparison must not miss them';

create table rowstream.row (
    pipeline text,
    source text,
    source_id text,
    id bytea not null,
    target text not null,
    row_key bytea,
    wants bytea,
    adopted boolean not null default false,
    kept boolean not null default false,
    shared boolean not null default false,
    collected jsonb,
    touched_at timestamptz,
    primary key (pipeline, source, source_id)
);
comment on table rowstream.row is
    'which document stands for which row, where the table itself does not say it; target the table and the columns of its key, row_key their values as in binary COPY, wants the key that a held document waits for, adopted that the row''s key is its own and not the document''s, kept that the document is gone while its row stays, touched_at that the document is to be read again';
create unique index row_owner on rowstream.row (pipeline, target, row_key) where not shared;
create index row_shared on rowstream.row (pipeline, target, row_key) where shared;
create index row_wanted on rowstream.row (pipeline, target, wants) where wants is not null;
create index row_touched on rowstream.row (pipeline, touched_at) where touched_at is not null;

create table rowstream.reconcile_run (
    pipeline text,
    id bigint generated always as identity,
    extent text not null check (extent in ('full', 'sample', 'findings')),
    sample bigint,
    cause text not null check (cause in ('command', 'timer', 'http', 'repair', 'resync')),
    state text not null default 'running' check (state in ('asked', 'running', 'done', 'cancelled', 'failed')),
    started_at timestamptz not null default now(),
    heartbeat timestamptz not null default now(),
    finished_at timestamptz,
    progress jsonb,
    report jsonb,
    primary key (pipeline, id)
);
comment on table rowstream.reconcile_run is
    'comparisons of rows with their documents; progress says where one that was interrupted goes on, report what one has found';
create unique index reconcile_running on rowstream.reconcile_run (pipeline) where state in ('asked', 'running');

create table rowstream.reconcile_finding (
    pipeline text,
    source text,
    source_id text,
    target text,
    kind text,
    columns text[] not null default '{}',
    id bytea,
    run bigint not null,
    first_found_at timestamptz not null default now(),
    last_found_at timestamptz not null default now(),
    repaired_at timestamptz,
    converges boolean not null default true,
    primary key (pipeline, source, source_id, target, kind)
);
comment on table rowstream.reconcile_finding is
    'what differs between a document and its rows; converges is false for what differed again after its document was read again';

create table rowstream.touch (
    pipeline text,
    source text,
    source_id text,
    id bytea not null,
    since timestamptz not null default now(),
    primary key (pipeline, source, source_id)
);
comment on table rowstream.touch is 'documents that a repair wants to be read again';
