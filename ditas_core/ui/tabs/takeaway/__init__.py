"""What a visitor takes along: tables, pictures, a report, code that repeats it all."""
