"""What a study is (its spec) and how it moves: the search, the phases, what people do to it."""
