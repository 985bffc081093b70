"""The pages for a browser: the index page as one file, and a page for each run beside it."""
