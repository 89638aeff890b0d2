"""Tables, figures and the page that show a run; no code of the method."""
