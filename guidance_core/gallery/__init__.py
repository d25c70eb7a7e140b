"""The gallery: every method that ships, drawn and measured beside plain cfg at the same effective scale and cost."""
