"""The read model: what the database says of studies and their runs, as plain records."""
