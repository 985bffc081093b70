"""The index page's content as data and as HTML: the answer, the claims, the chooser, the topics."""
