"""Who may do what: tokens, browser sessions, and the gate that every request passes."""
