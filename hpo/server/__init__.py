"""What a browser sees, behind one door: the lab's pages, the report, optuna-dashboard with notes on its study pages."""
