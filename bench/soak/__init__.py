"""A long run at a steady, moderate load: what grows is found, and so is what was lost or came twice."""
