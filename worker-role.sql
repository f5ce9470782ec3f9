-- The role of workers, of the dashboard and of whoever creates studies: it can neither delete anything nor make or
-- change a table; it may ask workers to end (`hpo workers stop`). Run it as the role that owns the tables, after each
-- `hpo db upgrade`. (`hpo study delete` needs DELETE as well. Where search_path leads elsewhere, put that schema for
-- `public`.)

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hpo_worker') THEN
    CREATE ROLE hpo_worker LOGIN;
  END IF;
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC; -- a server of before PostgreSQL 15 grants it to everybody
GRANT USAGE ON SCHEMA public TO hpo_worker;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO hpo_worker;
REVOKE INSERT, UPDATE ON alembic_version, hpo_alembic_version, version_info, hpo_database FROM hpo_worker; -- `hpo db` writes them
REVOKE INSERT, UPDATE ON hpo_users, hpo_tokens FROM hpo_worker; -- `hpo user` and `hpo token` write them
GRANT UPDATE (logouts) ON hpo_users TO hpo_worker; -- the dashboard counts them: a logout ends a user's sessions
REVOKE UPDATE ON hpo_ledger FROM hpo_worker; -- an opening of the test pool is entered, and stays as it is
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO hpo_worker;

-- What a later `hpo db upgrade` of this owner makes.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO hpo_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO hpo_worker;
