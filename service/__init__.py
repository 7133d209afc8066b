"""The tuning service: jobs over REST, Optuna studies, the dispatch of trials, the dashboard and the CLI."""
