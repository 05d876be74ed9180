"""The method, the words and the licences."""
