"""How the embedded model was made, and the text that it was not trained on."""
