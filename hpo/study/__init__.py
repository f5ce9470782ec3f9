"""What a study is (its spec) and how it proceeds: the search, the phases, the operations of users."""
