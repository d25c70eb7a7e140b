"""What a method is told: numbers, values per output, schedules, and the fields that take them."""
