"""Starting workers as processes of their own: `local` on this machine.

Each launcher only hosts workers; what they do is in the database.
"""
