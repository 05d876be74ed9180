"""Weight files and folders of them: what they hold is checked before a parser reads it."""
