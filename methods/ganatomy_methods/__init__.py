"""Methods of the papers, each one file, written against ganatomy.contracts alone."""
