"""What a person has done, alike from the shell and from Python: everything run to its report, with its progress
shown."""
