"""One reader per format: a path in, a Table with every column a feature out; labels an array brings are its target."""
