"""Write predictions to one file, as they come; it is there whole or not at all."""
