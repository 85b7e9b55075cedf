"""What several tests share: workers, fakes, small data sets, references."""
