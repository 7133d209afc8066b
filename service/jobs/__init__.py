"""Jobs: submitted, listed, shown, cancelled."""
