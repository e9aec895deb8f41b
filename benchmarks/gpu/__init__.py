"""What does a GPU make of wmdd? Tests, speed against a plain loop and against the card's limit, and whole recipes."""
