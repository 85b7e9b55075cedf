"""Trained models as files that other programs run, each with a proof, and running such files in the place of a run."""
