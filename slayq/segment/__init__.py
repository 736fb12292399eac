"""A segment of a run: a function taken as far as it goes, from what is recorded to a stream of ops."""
