-- What the application looks up. Its reports over everything are left out: they read whole tables by intent.

-- a user who logs in
-- $1 = select max(email) from users
select id, first_name, last_name, email, password_hash from users where email = $1;

-- whether a raw transaction is there already
-- $1 = select min(source_id) from transactions where source = 'stripe'
select id from transactions where source = 'stripe' and source_id = $1;

-- the latest raw transactions of a source
-- $1 = 'venmo'
select source_id, source_data from transactions where source = $1::transaction_source
order by transaction_date desc limit 50;

-- a line item with what belongs to it
-- $1 = select max(line_item_id) from event_line_items
select item.id, item.date, method.name as payment_method, item.description, item.amount, item.responsible_party,
       item.notes, transaction.source = 'manual' as is_manual, pair.event_id
from line_items as item
join payment_methods as method on method.id = item.payment_method_id
join transactions as transaction on transaction.id = item.transaction_id
left join event_line_items as pair on pair.line_item_id = item.id
where item.id = $1;

-- the line items from which an event is made
-- $1 = select array_agg(id) from (select id from line_items order by date desc limit 5) as few
select item.id, item.date, item.amount, item.description, method.name as payment_method
from line_items as item join payment_methods as method on method.id = item.payment_method_id
where item.id = any($1::text[]) order by item.date desc;

-- line items that nobody has reviewed yet, latest first
select item.id, item.date, item.description, item.amount, method.name as payment_method
from line_items as item join payment_methods as method on method.id = item.payment_method_id
where (select min(pair.event_id) from event_line_items as pair where pair.line_item_id = item.id) is null
order by item.date desc limit 50;

-- the latest line items of a payment method
-- $1 = select payment_method_id from line_items group by 1 order by count(*) limit 1
select id, date, description, amount from line_items where payment_method_id = $1 order by date desc limit 50;

-- whether a manual transaction may be removed
-- $1 = select min(transaction_id) from line_items
select item.id, pair.event_id
from line_items as item left join event_line_items as pair on pair.line_item_id = item.id
where item.transaction_id = $1;

-- the line items of an event
-- $1 = select max(event_id) from event_line_items
select item.id, item.date, item.description, item.amount
from event_line_items as pair join line_items as item on item.id = pair.line_item_id
where pair.event_id = $1 order by pair.created_at, pair.line_item_id;

-- the events of a week, latest first
-- $1 = select max(date) - interval '7 days' from events
-- $2 = select max(date) from events
select event.id, event.date, event.description, event.is_duplicate, category.name as category
from events as event join categories as category on category.id = event.category_id
where event.date >= $1 and event.date <= $2 order by event.date desc;

-- what the events of a list cost
-- $1 = select array_agg(id) from (select id from events order by date desc limit 20) as few
select pair.event_id, sum(item.amount) as total, min(item.amount) as as_duplicate
from event_line_items as pair join line_items as item on item.id = pair.line_item_id
where pair.event_id = any($1::text[]) group by pair.event_id;

-- the tags of an event
-- $1 = select max(event_id) from event_tags
select tag.name from event_tags as pair join tags as tag on tag.id = pair.tag_id
where pair.event_id = $1 order by tag.name;

-- an event by the id that it had in MongoDB
-- $1 = select min(mongo_id) from events
select id, date, description, category_id, is_duplicate from events where mongo_id = $1;

-- a line item by the id that it had in MongoDB
-- $1 = select min(mongo_id) from line_items
select id, transaction_id, date, amount from line_items where mongo_id = $1;
