"""What a hyperparameter's value can be; on its own, for it is imported by what loads no database."""

Value = float | int | str | bool
