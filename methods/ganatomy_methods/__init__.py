"""Methods of the papers, each one file or one package, written against ganatomy.contracts alone."""
