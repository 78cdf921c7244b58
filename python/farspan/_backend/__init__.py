"""What the public operations stand on: arguments made uniform, and the compiled backends behind one form."""
