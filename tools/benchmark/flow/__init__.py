"""Flow operators beside what others compute flow with: pairs a second, and end-point error."""
