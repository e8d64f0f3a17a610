"""Train the flow and the learned prior."""
