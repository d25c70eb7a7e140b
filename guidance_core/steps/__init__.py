"""What a step runs and what is made of it: layout, plan, combination."""
