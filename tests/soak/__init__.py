"""A bounded cache under load, with faults, for as long as one likes; and killed in the middle of it."""
