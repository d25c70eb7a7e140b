"""What a plugin says and sees: requests, hooks, the step, the base prediction, and the stack of plugins."""
