"""How our tables came to be, one step a file in versions/; `hpo.storage.migrate` runs them."""
