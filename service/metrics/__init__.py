"""What Prometheus scrapes at ``/metrics``."""
