"""The same, faster: each piece is held to the plain one by tests in double precision."""
