"""What a run tells of itself: events, progress, status, figures."""
