"""A whole job: its stages in order, and what they would do."""
