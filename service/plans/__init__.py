"""What would become of a job if it were submitted now. Nothing is stored."""
