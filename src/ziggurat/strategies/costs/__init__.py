"""What was measured of a network: costs of calls, cuts, placements."""
