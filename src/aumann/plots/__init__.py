"""Pictures of an explanation."""
