"""What synthetic corpora are made of: rules, words, people, templates.  The sources that use them are in `sources/`."""
