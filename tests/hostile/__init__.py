"""Files that nobody should have sent: how they are made, and what loading them does."""
