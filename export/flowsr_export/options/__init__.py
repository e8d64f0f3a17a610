"""Options that several commands share, and how each becomes a value."""
