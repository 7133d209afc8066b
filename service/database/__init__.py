"""Our own tables (jobs, attempts), beside Optuna's in the same database."""
