"""The database: engines, the slots that are the queue, Optuna's tables beside them, migrations.

Nothing in here knows how a network is trained.
"""
