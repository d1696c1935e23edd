"""One command a file; what is heavy is imported inside its function."""
