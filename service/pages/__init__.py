"""Our own web pages: all jobs at ``/``, one job at ``/jobs/{id}``. Rendered here, kept fresh by a little htmx."""
