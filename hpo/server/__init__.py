"""What a browser sees: optuna-dashboard behind its guard, notes and figures on its study pages."""
