-- The look-ups that the application makes. A test explains and runs each on a large set; `$1 = …` says what it asks for.

-- the user who signs in with Google
-- $1 = select google_id from postgres_users order by id desc limit 1
select mongo_id, email_id, name, picture from postgres_users where google_id = $1;

-- a user by e-mail address
-- $1 = select email_id from postgres_users order by id desc limit 1
select mongo_id, google_id, name, picture from postgres_users where email_id = $1;

-- a user by the id that tokens carry
-- $1 = select mongo_id from postgres_users order by id desc limit 1
select google_id, email_id, name, picture from postgres_users where mongo_id = $1;

-- one task with its deferral
-- $1 = select mongo_id from postgres_tasks order by id desc limit 1
select task.*, deferred.deferred_at, deferred.deferred_till, deferred.deferred_by
from postgres_tasks as task
left join postgres_deferred_details as deferred on deferred.task_id = task.id
where task.mongo_id = $1;

-- a task by the number that people say
-- $1 = select display_id from postgres_tasks order by id desc limit 1
select mongo_id, title, status, priority from postgres_tasks where display_id = $1 and not is_deleted;

-- the labels of a task
-- $1 = select task.mongo_id from postgres_task_labels join postgres_tasks as task on task.id = task_id limit 1
select label.mongo_id, label.name, label.color
from postgres_tasks as task
join postgres_task_labels as of_task on of_task.task_id = task.id
join postgres_labels as label on label.mongo_id = of_task.label_mongo_id
where task.mongo_id = $1
order by label.name;

-- the tasks with a label, the first page
-- $1 = select label_mongo_id from postgres_task_labels limit 1
select task.mongo_id, task.title
from postgres_task_labels as of_task
join postgres_tasks as task on task.id = of_task.task_id
where of_task.label_mongo_id = $1 and not task.is_deleted
order by task.id
limit 20;

-- the tasks that somebody created
-- $1 = select created_by from postgres_tasks order by id desc limit 1
select mongo_id, title, status, priority, created_at from postgres_tasks
where created_by = $1 and not is_deleted
order by created_at desc
limit 20;

-- the tasks that are due in a day
-- $1 = select min(due_at) from postgres_tasks
select mongo_id, title, due_at from postgres_tasks
where due_at >= $1 and due_at < $1 + interval '1 day' and status <> 'DONE' and not is_deleted
order by due_at;

-- whose a task is now, a user or a team
-- $1 = select task_mongo_id from postgres_task_assignments where is_active limit 1
select assigned.assignee_id, assigned.user_type, coalesce(assignee.name, team.name) as assignee_name
from postgres_task_assignments as assigned
left join postgres_users as assignee on assigned.user_type = 'user' and assignee.mongo_id = assigned.assignee_id
left join postgres_teams as team on assigned.user_type = 'team' and team.mongo_id = assigned.assignee_id
where assigned.task_mongo_id = $1 and assigned.is_active;

-- the tasks of a user, urgent ones first
-- $1 = select assignee_id from postgres_task_assignments where is_active and user_type = 'user' limit 1
select task.mongo_id, task.title, task.status, task.priority
from postgres_task_assignments as assigned
join postgres_tasks as task on task.mongo_id = assigned.task_mongo_id
where assigned.assignee_id = $1 and assigned.user_type = 'user' and assigned.is_active and not task.is_deleted
order by task.priority, task.created_at desc
limit 20;

-- the tasks of the teams that a user is in
-- $1 = select user_id from postgres_user_team_details where is_active limit 1
select task.mongo_id, task.title, task.status, team.name as team
from postgres_user_team_details as member
join postgres_teams as team on team.mongo_id = member.team_id and not team.is_deleted
join postgres_task_assignments as assigned on assigned.assignee_id = team.mongo_id and assigned.is_active
join postgres_tasks as task on task.mongo_id = assigned.task_mongo_id
where member.user_id = $1 and member.is_active and assigned.user_type = 'team'
limit 20;

-- the team of an invite code
-- $1 = select invite_code from postgres_teams order by id desc limit 1
select mongo_id, name, poc_id from postgres_teams where invite_code = $1 and not is_deleted;

-- the teams that somebody created
-- $1 = select created_by from postgres_teams order by id desc limit 1
select mongo_id, name, description from postgres_teams where created_by = $1 and not is_deleted;

-- the members of a team
-- $1 = select team_id from postgres_user_team_details where is_active limit 1
select member.user_id, person.name, person.picture, member.created_at
from postgres_user_team_details as member
join postgres_users as person on person.mongo_id = member.user_id
where member.team_id = $1 and member.is_active
order by person.name;

-- whether a user is in a team
-- $1 = select user_id from postgres_user_team_details order by id limit 1
-- $2 = select team_id from postgres_user_team_details order by id limit 1
select is_active from postgres_user_team_details where user_id = $1 and team_id = $2;

-- the roles of a user, with what they permit
-- $1 = select user_id from postgres_user_roles where is_active limit 1
select held.scope, held.team_id, role.name, role.permissions
from postgres_user_roles as held
join postgres_roles as role on role.name = held.role_name
where held.user_id = $1 and held.is_active;

-- who owns a team
-- $1 = select team_id from postgres_user_roles where is_active and role_name = 'owner' limit 1
select user_id from postgres_user_roles
where team_id = $1 and role_name = 'owner' and scope = 'TEAM' and is_active;

-- the watched tasks of a user
-- $1 = select user_id from postgres_watchlist where is_active limit 1
select task.mongo_id, task.title, task.status, watched.created_at
from postgres_watchlist as watched
join postgres_tasks as task on task.mongo_id = watched.task_id
where watched.user_id = $1 and watched.is_active
order by watched.created_at desc
limit 20;

-- whether a user watches a task
-- $1 = select user_id from postgres_watchlist order by id limit 1
-- $2 = select task_id from postgres_watchlist order by id limit 1
select is_active from postgres_watchlist where user_id = $1 and task_id = $2;

-- the history of a task
-- $1 = select task_id from postgres_audit_logs where task_id is not null order by id limit 1
select action, timestamp, performed_by, status_from, status_to, assignee_from, assignee_to from postgres_audit_logs
where task_id = $1
order by timestamp desc;

-- what happened in a team lately
-- $1 = select team_id from postgres_audit_logs where team_id is not null order by id limit 1
select action, timestamp, performed_by, spoc_id from postgres_audit_logs
where team_id = $1
order by timestamp desc
limit 20;

-- the last things that happened anywhere
select action, timestamp, performed_by from postgres_audit_logs order by timestamp desc limit 20;

-- a code that lets somebody create a team, if nobody has used it
-- $1 = select code from postgres_team_creation_invite_codes where not is_used order by id limit 1
select mongo_id, description, created_by from postgres_team_creation_invite_codes where code = $1 and not is_used;

-- the codes that somebody handed out
-- $1 = select created_by from postgres_team_creation_invite_codes order by id limit 1
select code, description, used_by, used_at from postgres_team_creation_invite_codes
where created_by = $1
order by created_at desc;

-- the tasks whose last change could not be copied
select mongo_id, sync_error, last_sync_at from postgres_tasks where sync_status = 'FAILED' limit 20;
