"""What a person types: each command reads its options, calls the rooms below, and says what came of it. Nothing is
computed here that a script could not have without a terminal."""
