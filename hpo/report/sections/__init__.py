"""The report's sections: each makes its parts (tables, figures, sentences) from the contents."""
