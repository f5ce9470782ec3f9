"""Launchers start workers: `local` as processes on this machine.

A launcher only hosts workers; what they do is decided by the database.
"""
