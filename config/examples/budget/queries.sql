-- What the application looks up. Its lists of everything are left out: they read whole tables by intent.

-- an expense by its id
-- $1 = select max(id) from expenses
select id, date, business, category, amount, account, currency, notes from expenses where id = $1;

-- whether an income is there
-- $1 = select min(id) from incomes
select id from incomes where id = $1;

-- the expenses that are deleted together
-- $1 = select array_agg(id) from (select id from expenses order by id limit 20) as few
select id from expenses where id = any($1::integer[]);

-- the expenses of a range of days, latest first
-- $1 = select max(date) - 6 from expenses
-- $2 = select max(date) from expenses
select id, date, business, category, amount, account, currency, notes from expenses
where date >= $1 and date <= $2 order by date desc offset 0 limit 50;

-- what was spent in a range of days
-- $1 = select max(date) - 6 from expenses
-- $2 = select max(date) from expenses
select sum(amount) from expenses where date >= $1 and date <= $2;

-- the expenses of a category, latest first
-- $1 = select max(category) from expenses
select id, date, business, category, amount, account, currency, notes from expenses
where category = $1 order by date desc offset 0 limit 50;

-- what was spent on a category
-- $1 = select category from expenses group by category order by count(*) limit 1
select sum(amount) from expenses where category = $1;

-- the incomes of a range of days, latest first
-- $1 = select max(date) - 6 from incomes
-- $2 = select max(date) from incomes
select id, date, category, amount, account, currency, notes from incomes
where date >= $1 and date <= $2 order by date desc offset 0 limit 50;

-- what came in by a category
-- $1 = select category from incomes group by category order by count(*) limit 1
select sum(amount) from incomes where category = $1;
