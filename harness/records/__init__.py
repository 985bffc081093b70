"""Records: the run directory, appended to as samples come and readable at any moment."""
