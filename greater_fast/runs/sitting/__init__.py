"""A sitting: a run from where its folder has come to, until its result or its end."""
