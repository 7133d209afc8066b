"""What of ended jobs is removed, when, and how."""
