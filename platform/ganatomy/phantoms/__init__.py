"""Hearts, bones, brains and crops around one organ, whose truth is known, written as cohorts. They know nothing of what
will be trained on them, nor of each other."""
